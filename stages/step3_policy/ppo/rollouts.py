"""Prompts in, sampled responses out."""

from collections.abc import Sequence
from typing import Protocol

import numpy as np

from stages.lm.rollout import Rollouts, Sampling, sampling_keys
from stages.step3_policy.ppo.config import PpoConfig


class RolloutEngine(Protocol):
    """What samples: `stages.lm.rollout.HFEngine` here."""

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """One response a prompt, with the noise of `keys` (B,)."""


def sample_responses(
    engine: RolloutEngine,
    prompts: Sequence[list[int]],
    config: PpoConfig,
    *,
    stream: int,
    indices: Sequence[int],
) -> Rollouts:
    """One response to each prompt by plain sampling, `generation_batch_size` at once.

    The noise is a function of (seed, stream, prompt, place in the batch, position).
    """
    sampling = Sampling(temperature=config.temperature, max_new_tokens=config.max_new_tokens)
    keys = sampling_keys(config.seed, stream, indices, range(len(prompts)))
    whole = Rollouts(tokens=[], logprobs=[], finished=[])
    for start in range(0, len(prompts), config.generation_batch_size):
        some = slice(start, start + config.generation_batch_size)
        part = engine.generate(prompts[some], sampling, keys[some])
        whole.tokens += part.tokens
        whole.logprobs += part.logprobs
        whole.finished += part.finished
    return whole
