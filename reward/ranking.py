"""Losses of K ranked completions: Eq. 1 of InstructGPT (Ouyang et al. 2022, §3.5), and two others.

    pairwise       -1/C(K,2) * sum over pairs (w better than l) of log sigmoid(r_w - r_l - m)
    plackett_luce  -mean over choices i of log( e^r_i / (e^r_i + sum of e^r_j over j worse than i) )
    best_of_k      the first of those choices alone: the best against all

r = r(x, y), higher for better completions. m is a margin, 0 in the paper; Touvron et al. 2023 have
one for each strength of preference. Rank 1 is best, equal ranks are ties and make no pair; explicit
pairs may say a partial order. Plackett (1975); best of K as in Ziegler et al. (2019), Eq. 1. One
prompt with all its pairs is one element of the batch: losses are averaged within a prompt first.

Dimension letters: P prompts, K completions of the longest ranking; shorter ones are masked.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor
from torch.nn import functional

Pairs = Sequence[tuple[int, int, float]]  # (better, worse, margin)


@dataclass(kw_only=True)
class RankedScores:
    """Scores of P prompts with up to K completions each, and what was said of them."""

    scores: Tensor  # (P, K) float; anything where masked
    mask: Tensor  # (P, K) bool: True on completions
    preferences: Tensor  # (P, K, K) bool: [p, i, j] is True where i was found better than j
    margins: Tensor  # (P, K, K) float32: by how much i should win over j, at least
    weights: Tensor  # (P,) float32: of a prompt's loss

    @property
    def differences(self) -> Tensor:
        """(P, K, K) float32: score of i minus score of j; 0 where either is padding."""
        scores = self.scores.float().masked_fill(~self.mask, 0.0)
        both = self.mask[:, :, None] & self.mask[:, None, :]
        return (scores[:, :, None] - scores[:, None, :]) * both


@dataclass(kw_only=True)
class RankingLosses:
    """What each prompt contributes."""

    losses: Tensor  # (P,) float32: the prompt's mean times its weight, 0 without a pair
    num_pairs: Tensor  # (P,) int64: pairs that are not tied

    @property
    def mean(self) -> Tensor:
        """The mean over prompts that have a pair; 0 if none has (a prompt of ties is skipped)."""
        return self.losses.sum() / (self.num_pairs > 0).sum().clamp(min=1)


def ragged_scores(
    scores: Tensor,
    ranks: Sequence[Sequence[int]],
    pairs: Sequence[Pairs | None] | None = None,
    weights: Sequence[float] | None = None,
) -> RankedScores:
    """Flat scores (N,) of P rankings, one after the other, as padded rows; N sums all K.

    pairs: for the prompts that have some, they replace what the ranks imply. weights: 1 if None.
    """
    device = scores.device
    sizes = torch.tensor([len(row) for row in ranks], device=device)
    assert len(scores) == int(sizes.sum())
    mask = torch.arange(int(sizes.max()), device=device) < sizes[:, None]
    flat_ranks = torch.tensor([rank for row in ranks for rank in row], device=device)
    padded_ranks = flat_ranks.new_zeros(mask.shape).masked_scatter(mask, flat_ranks)
    both = mask[:, :, None] & mask[:, None, :]
    ranked = RankedScores(
        scores=scores.new_zeros(mask.shape).masked_scatter(mask, scores),
        mask=mask,
        preferences=both & (padded_ranks[:, :, None] < padded_ranks[:, None, :]),
        margins=torch.zeros(both.shape, device=device),
        weights=torch.tensor(weights or [1.0] * len(ranks), device=device),
    )
    for prompt, given in enumerate(pairs or []):
        if given is not None:
            _replace(ranked, prompt, given)
    return ranked


def _replace(ranked: RankedScores, prompt: int, pairs: Pairs) -> None:
    """What was said of one prompt: these pairs and no others."""
    ranked.preferences[prompt] = False
    for better, worse, margin in pairs:
        ranked.preferences[prompt, better, worse] = True
        ranked.margins[prompt, better, worse] = margin


def pairwise_losses(ranked: RankedScores, *, count_ties: bool = False) -> RankingLosses:
    """Eq. 1 for each prompt.

    count_ties: divide by all C(K,2) pairs of the prompt, tied ones included; otherwise by the pairs
    that are not tied. The paper drops ties and does not print which.
    """
    excess = ranked.differences - ranked.margins
    pair_losses = functional.softplus(-excess) * ranked.preferences
    num_pairs = ranked.preferences.sum((1, 2))
    sizes = ranked.mask.sum(1)
    divisor = sizes * (sizes - 1) // 2 if count_ties else num_pairs
    return _weighted(ranked, pair_losses.sum((1, 2)) / divisor.clamp(min=1))


def plackett_luce_losses(ranked: RankedScores) -> RankingLosses:
    """The mean over a prompt's choices: each completion against itself and all that are worse."""
    chooses = ranked.preferences.any(2)
    losses = (_choice_losses(ranked) * chooses).sum(1) / chooses.sum(1).clamp(min=1)
    return _weighted(ranked, losses)


def best_of_k_losses(ranked: RankedScores) -> RankingLosses:
    """The choices of what nothing beats; their mean where several share the first place."""
    best = ranked.preferences.any(2) & ~ranked.preferences.any(1)
    losses = (_choice_losses(ranked) * best).sum(1) / best.sum(1).clamp(min=1)
    return _weighted(ranked, losses)


def _choice_losses(ranked: RankedScores) -> Tensor:
    """(P, K): -log of the share that a completion has among itself and what it was preferred to."""
    lost_to = -ranked.differences  # [p, i, j]: score of j minus score of i
    among = ranked.preferences | torch.eye(
        ranked.mask.shape[1], dtype=torch.bool, device=lost_to.device
    )
    return lost_to.masked_fill(~among, float("-inf")).logsumexp(2)


def _weighted(ranked: RankedScores, losses: Tensor) -> RankingLosses:
    return RankingLosses(losses=losses * ranked.weights, num_pairs=ranked.preferences.sum((1, 2)))


LOSSES: dict[str, Callable[[RankedScores], RankingLosses]] = {
    "pairwise": pairwise_losses,
    "plackett_luce": plackett_luce_losses,
    "best_of_k": best_of_k_losses,
}
