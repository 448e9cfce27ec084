"""What a rollout engine is: prompts to sampled responses, with weights of a known version.

Noise is a function of a key (seed, stream, prompt, sample) and the position, so how a batch is
split changes nothing that is sampled. The engines themselves: `stages.lm.engines`.
"""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np
import torch
from torch import Tensor

from stages.contracts import UserError, check_truncation


@dataclass(kw_only=True)
class Sampling:
    """How responses are drawn: plain sampling by default, which is what training uses.

    greedy: the likeliest token each time. top_k: of the k likeliest tokens; 0: of all. top_p: of
    the fewest that have this probability together, top_k applied before.
    """

    max_new_tokens: int
    temperature: float = 1.0
    greedy: bool = False
    top_k: int = 0
    top_p: float = 1.0

    def __post_init__(self) -> None:
        if not self.temperature > 0:
            raise UserError(
                "temperature must be positive",
                got=str(self.temperature),
                do="greedy=true for argmax",
            )
        if self.max_new_tokens < 1:
            raise UserError(
                "max_new_tokens must be at least 1",
                got=str(self.max_new_tokens),
                do="for example 24",
            )
        check_truncation(self.top_k, self.top_p)


@dataclass(kw_only=True)
class Rollouts:
    """B sampled responses: tokens (EOS when finished), their log-probs, whether they finished.

    logprobs: of the distribution that was sampled from, in nats. version: of the engine's weights.
    """

    tokens: list[list[int]]
    logprobs: list[list[float]]
    finished: list[bool]
    version: int = 0


class RolloutEngine(Protocol):
    """Samples with weights that it is given; in this process, or in one of its own.

    version: of the weights that it holds, 0 at first. in_process: it shares this process and the
    policy's module: batches are cut for it, and while it samples nothing else goes on. An engine of
    another process schedules sequences itself, and the trainer may work meanwhile.
    """

    version: int
    in_process: bool

    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Take the policy's parameters, by name, as that version."""

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """Responses to B prompts (token ids), with the noise of `keys` (B,) uint64."""

    def close(self) -> None:
        """Give back what the engine holds; it is not used again."""


def sampling_keys(
    seed: int, stream: int, prompts: Sequence[int], samples: Sequence[int]
) -> np.ndarray:
    """(B,) uint64: a key a response, from seed, stream (an iteration), prompt and sample."""
    key = np.zeros(len(prompts), dtype=np.uint64)
    for part in (np.full(len(prompts), seed), np.full(len(prompts), stream), prompts, samples):
        key = _mix(key ^ np.asarray(part, dtype=np.uint64))
    return key


def uniforms(keys: np.ndarray, position: int) -> np.ndarray:
    """(B,) float64 in [0, 1): the noise of these keys at a position."""
    bits = _mix(keys ^ _mix(np.full(len(keys), position + 1, dtype=np.uint64)))
    noise: np.ndarray = (bits >> np.uint64(11)).astype(np.float64) * 2.0**-53
    return noise


def _mix(state: np.ndarray) -> np.ndarray:
    """SplitMix64 (Steele, Lea, Flood 2014): a bijection whose outputs look random."""
    state = state + np.uint64(0x9E3779B97F4A7C15)
    state = (state ^ (state >> np.uint64(30))) * np.uint64(0xBF58476D1CE4E5B9)
    state = (state ^ (state >> np.uint64(27))) * np.uint64(0x94D049BB133111EB)
    mixed: np.ndarray = state ^ (state >> np.uint64(31))
    return mixed


def choose_tokens(logprobs: Tensor, sampling: Sampling, noise: np.ndarray) -> Tensor:
    """(B,) token ids by inverse transform: the first whose cumulated probability exceeds noise."""
    if sampling.greedy:
        return logprobs.argmax(-1)
    cumulated = logprobs.double().exp().cumsum(-1)
    threshold = torch.from_numpy(noise).to(logprobs.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0].clamp(
        max=logprobs.shape[1] - 1
    )


def truncated(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """(B, V): -inf outside the top k, then outside the smallest set of probability top_p.

    What is left is normalised after each step. Tokens as likely as the k-th stay.
    """
    if sampling.top_k:
        least = logprobs.topk(min(sampling.top_k, logprobs.shape[-1])).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < least, -torch.inf).log_softmax(-1)
    if sampling.top_p < 1.0:
        ordered, index = logprobs.sort(descending=True)
        probabilities = ordered.double().exp()
        outside = probabilities.cumsum(-1) - probabilities >= sampling.top_p
        outside = outside.gather(-1, index.argsort(-1))
        logprobs = logprobs.masked_fill(outside, -torch.inf).log_softmax(-1)
    return logprobs
