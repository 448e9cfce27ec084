"""A batch of rollouts with everything PPO learns from, and its minibatches."""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass, fields, replace

import numpy as np
import torch
from torch import Tensor

from stages.lm.batching import SequenceBatch
from stages.step3_policy.ppo.config import PpoConfig


@dataclass(kw_only=True)
class Experience:
    """B sequences, R tokens of the longest response; 0 where masked.

    Policy: what it did, and what it would have said. Outcome: what that was worth. Targets: what
    the losses use. The samples of a prompt stand together until minibatches are drawn.
    """

    # Trajectory
    batch: SequenceBatch  # prompts and responses
    finished: Tensor  # (B,) bool: ended in EOS

    # Policy, at the start of the updates
    engine_logprobs: Tensor  # (B, R) of the sampled tokens, as the engine drew them
    old_logprobs: Tensor  # (B, R) of the same tokens, recomputed with the training forward
    ref_logprobs: Tensor  # (B, R) of the same tokens under the reference
    entropies: Tensor  # (B, R) nats

    # Outcome
    scores: Tensor  # (B,) the weighted sum of the reward's components
    parts: dict[str, Tensor]  # (B,) each, by component: its own score, not weighted
    disagreements: Tensor | None  # (B,) of an ensemble's members on them; None of a single model
    rewards: (
        Tensor  # (B, R) KL penalty at every token, score (missing-EOS rule applied) at the last
    )

    # Targets
    values: Tensor | None  # (B, R) the critic's, at the start of the updates; None without one
    advantages: Tensor  # (B, R) whitened if so configured
    returns: Tensor | None  # (B, R) what the critic is fitted to
    advantage_scale: Tensor  # (B,) what whitening multiplied by: a KL loss keeps pace with it
    importance_weights: Tensor  # (B, R) of tokens that another policy sampled: mismatch.py

    @property
    def mask(self) -> Tensor:
        """(B, R) bool: True on response tokens."""
        return self.batch.response_mask

    def select(self, rows: Sequence[int]) -> "Experience":
        """These sequences, cut to the longest response among them."""
        index = torch.as_tensor(rows, device=self.scores.device)
        batch = self.batch.select(rows)
        width = int(batch.response_lengths.max())
        tensors = {name: tensor[index] for name, tensor in self.tensors().items()}
        cut = {name: t if t.dim() == 1 else t[:, :width] for name, t in tensors.items()}
        parts = {name: scores[index] for name, scores in self.parts.items()}
        return replace(self, batch=batch, parts=parts, **cut)

    def tensors(self) -> dict[str, Tensor]:
        """Every tensor but the token batch and the parts of the scores, by name."""
        values = {f.name: getattr(self, f.name) for f in fields(self)}
        return {name: value for name, value in values.items() if isinstance(value, Tensor)}


def minibatch_rows(config: PpoConfig, iteration: int) -> Iterator[tuple[int, list[int]]]:
    """(update, rows) of each minibatch of an iteration; updates count from the first iteration's.

    Every epoch splits a fresh permutation, a function of (seed, iteration, epoch) alone.
    """
    update = iteration * config.ppo_epochs * config.num_minibatches
    for epoch in range(config.ppo_epochs):
        generator = np.random.default_rng([config.seed, iteration, epoch])
        order = generator.permutation(config.rollout_batch_size)
        for rows in order.reshape(config.num_minibatches, config.minibatch_size).tolist():
            yield update, rows
            update += 1
