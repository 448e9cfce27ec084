"""The rollout engine: prompts to sampled responses, on the policy's own module.

Cost follows real tokens: a finished sequence leaves the batch. Noise is a function of a key (seed,
stream, prompt, sample) and the position, so how a batch is split changes nothing that is sampled.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from stages.contracts import UserError
from stages.lm.batching import pad_left


@dataclass(kw_only=True)
class Sampling:
    """How responses are drawn. Training uses plain sampling (top_k=0, top_p=1): truncated sampling
    makes stored log-probs wrong. top_k and top_p are for evaluation and chat."""

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


@dataclass(kw_only=True)
class Rollouts:
    """B sampled responses: tokens (EOS when finished), log-probs, whether they finished."""

    tokens: list[list[int]]
    logprobs: list[list[float]]
    finished: list[bool]


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


class HFEngine:
    """Samples with a Transformers model and its key-value cache."""

    def __init__(self, model: Any, *, eos_token_id: int, pad_token_id: int) -> None:
        self.model, self.eos_token_id, self.pad_token_id = model, eos_token_id, pad_token_id

    @torch.no_grad()
    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """Responses to B prompts (token ids), with the noise of `keys` (B,)."""
        decoding = _Decoding(self, prompts, keys)
        for position in range(sampling.max_new_tokens):
            decoding.step(position, sampling)
            if decoding.done():
                break
        return decoding.rollouts


class _Decoding:
    """The state of one `generate` call. `rows` are the sequences still being written."""

    def __init__(self, engine: HFEngine, prompts: Sequence[list[int]], keys: np.ndarray) -> None:
        from transformers import DynamicCache

        self.engine, self.keys = engine, keys
        device = engine.model.device
        self.tokens = pad_left(prompts, engine.pad_token_id).to(device)
        lengths = torch.tensor([len(prompt) for prompt in prompts], device=device)
        columns = torch.arange(self.tokens.shape[1], device=device)
        self.mask = (columns >= self.tokens.shape[1] - lengths[:, None]).long()
        self.cache = DynamicCache(config=engine.model.config)
        self.rows = np.arange(len(prompts))
        self.rollouts = Rollouts(
            tokens=[[] for _ in prompts],
            logprobs=[[] for _ in prompts],
            finished=[False] * len(prompts),
        )

    def step(self, position: int, sampling: Sampling) -> None:
        """Draw one token for every unfinished row."""
        logprobs = self._next_logprobs(sampling.temperature)
        chosen = choose_tokens(logprobs, sampling, uniforms(self.keys[self.rows], position))
        taken = logprobs.gather(1, chosen[:, None])[:, 0]
        self._record(chosen.tolist(), taken.tolist())
        self._keep(chosen)

    def done(self) -> bool:
        """Whether every sequence has ended."""
        return len(self.rows) == 0

    def _next_logprobs(self, temperature: float) -> Tensor:
        """(B, V) float32 at the sampling temperature. Position ids come from the mask."""
        width = self.tokens.shape[1]
        positions = (self.mask.cumsum(1) - 1).clamp(min=0)[:, -width:]
        output = self.engine.model(
            input_ids=self.tokens,
            attention_mask=self.mask,
            position_ids=positions,
            past_key_values=self.cache,
            use_cache=True,
            logits_to_keep=1,
        )
        logits: Tensor = output.logits[:, -1].float()
        return (logits / temperature).log_softmax(-1)

    def _record(self, chosen: list[int], logprobs: list[float]) -> None:
        for row, token, logprob in zip(self.rows, chosen, logprobs, strict=True):
            self.rollouts.tokens[row].append(token)
            self.rollouts.logprobs[row].append(logprob)
            self.rollouts.finished[row] = token == self.engine.eos_token_id

    def _keep(self, chosen: Tensor) -> None:
        """Drop finished rows from the batch and its cache; append the chosen token to the rest."""
        alive = (chosen != self.engine.eos_token_id).nonzero()[:, 0]
        if len(alive) < len(chosen):
            self.cache.batch_select_indices(alive)
            self.rows = self.rows[alive.cpu().numpy()]
        self.tokens = chosen[alive, None]
        self.mask = torch.cat([self.mask[alive], self.mask.new_ones(len(alive), 1)], dim=1)


def choose_tokens(logprobs: Tensor, sampling: Sampling, noise: np.ndarray) -> Tensor:
    """(B,) token ids by inverse transform: the first whose cumulated probability exceeds noise."""
    if sampling.greedy:
        return logprobs.argmax(-1)
    cumulated = truncated(logprobs, sampling).double().exp().cumsum(-1)
    threshold = torch.from_numpy(noise).to(logprobs.device)[:, None] * cumulated[:, -1:]
    return torch.searchsorted(cumulated, threshold, right=True)[:, 0].clamp(
        max=logprobs.shape[1] - 1
    )


def truncated(logprobs: Tensor, sampling: Sampling) -> Tensor:
    """(B, V): -inf outside the top k and outside the smallest set of probability top_p."""
    if sampling.top_k:
        least = logprobs.topk(min(sampling.top_k, logprobs.shape[-1])).values[:, -1:]
        logprobs = logprobs.masked_fill(logprobs < least, -torch.inf)
    if sampling.top_p < 1.0:
        ordered, index = logprobs.sort(descending=True)
        outside = ordered.exp().cumsum(-1) - ordered.exp() >= sampling.top_p
        logprobs = logprobs.masked_fill(outside.gather(-1, index.argsort(-1)), -torch.inf)
    return logprobs
