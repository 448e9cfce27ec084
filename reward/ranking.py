"""The K-way ranking loss of InstructGPT (Ouyang et al. 2022, §3.5 Eq. 1).

    loss = -1/C(K,2) * sum over pairs (w better than l) of log sigmoid(r(x, y_w) - r(x, y_l))

Scores are higher for better completions, rank 1 is best, equal ranks are ties and make no pair. One
prompt with all its pairs is one element of the batch: losses are averaged within a prompt first.

Dimension letters: P prompts, K completions of the longest ranking; shorter ones are masked.
"""

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional


@dataclass(kw_only=True)
class RankedScores:
    """Scores and ranks of P prompts with up to K completions each."""

    scores: Tensor  # (P, K) float; anything where masked
    ranks: Tensor  # (P, K) int64, 1 is best; anything where masked
    mask: Tensor  # (P, K) bool: True on completions

    @property
    def preferences(self) -> Tensor:
        """(P, K, K) bool: [p, i, j] is True where completion i ranks above completion j."""
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return both & (self.ranks[:, :, None] < self.ranks[:, None, :])

    @property
    def margins(self) -> Tensor:
        """(P, K, K) float32: score of i minus score of j; 0 where either is padding."""
        scores = self.scores.float().masked_fill(~self.mask, 0.0)
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return (scores[:, :, None] - scores[:, None, :]) * both


@dataclass(kw_only=True)
class RankingLosses:
    """What each prompt contributes."""

    losses: Tensor  # (P,) float32: mean over the prompt's pairs, 0 without a pair
    num_pairs: Tensor  # (P,) int64: pairs that are not tied

    @property
    def mean(self) -> Tensor:
        """The mean over prompts that have a pair; 0 if none has (a prompt of ties is skipped)."""
        return self.losses.sum() / (self.num_pairs > 0).sum().clamp(min=1)


def ragged_scores(scores: Tensor, ranks: Sequence[Sequence[int]]) -> RankedScores:
    """Flat scores (N,) of P rankings, one after the other, as padded rows; N sums all K."""
    sizes = torch.tensor([len(row) for row in ranks], device=scores.device)
    assert len(scores) == int(sizes.sum())
    mask = torch.arange(int(sizes.max()), device=scores.device) < sizes[:, None]
    flat_ranks = torch.tensor([rank for row in ranks for rank in row], device=scores.device)
    return RankedScores(
        scores=scores.new_zeros(mask.shape).masked_scatter(mask, scores),
        ranks=flat_ranks.new_zeros(mask.shape).masked_scatter(mask, flat_ranks),
        mask=mask,
    )


def ranking_losses(ranked: RankedScores, *, count_ties: bool = False) -> RankingLosses:
    """Eq. 1 for each prompt.

    count_ties: divide by all C(K,2) pairs of the prompt, tied ones included; otherwise by the pairs
    that are not tied. The paper drops ties and does not print which.
    """
    pair_losses = functional.softplus(-ranked.margins) * ranked.preferences
    num_pairs = ranked.preferences.sum((1, 2))
    sizes = ranked.mask.sum(1)
    divisor = sizes * (sizes - 1) // 2 if count_ties else num_pairs
    losses = pair_losses.sum((1, 2)) / divisor.clamp(min=1)
    return RankingLosses(losses=losses, num_pairs=num_pairs)
