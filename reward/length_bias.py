"""Does length pay? Longer responses often are better; what matters is what the model adds to that.

Singhal et al. 2023 (A long way to go) found that length explains most of the reward gained in PPO.
"""

from dataclasses import dataclass

import numpy as np

from reward.pairs import Accuracy, Pairs, accuracy

MATCHED = 0.1  # lengths that differ by at most this share of the longer one


@dataclass(frozen=True, kw_only=True)
class LengthBias:
    """Figures of length; None where the data cannot tell.

    correlation: of score and length within comparisons. matched: accuracy on pairs of nearly equal
    length. longer_wins: the accuracy of a judge who always takes the longer, equal lengths half.
    prefers_longer: how often the longer of a pair scores higher; `labelers_prefer_longer` beside
    it, the same of the labelers; both over pairs of unequal length.
    """

    correlation: float | None
    matched: Accuracy | None
    longer_wins: float
    prefers_longer: float | None
    labelers_prefer_longer: float | None


def length_bias(
    pairs: Pairs, scores: np.ndarray, lengths: np.ndarray, owners: np.ndarray
) -> LengthBias:
    """Of scores, lengths and owners (N,): the comparison of each completion."""
    longer = pairs.differences(lengths)
    longest = np.maximum(lengths[pairs.better], lengths[pairs.worse])
    matched = np.abs(longer) <= MATCHED * longest
    won, unequal = pairs.won(scores), longer != 0
    model = np.where(longer > 0, won, 1 - won)[unequal]
    labelers = (longer > 0)[unequal]
    return LengthBias(
        correlation=within_correlation(scores, lengths, owners),
        matched=(
            accuracy("length-matched", won[matched], pairs.owner[matched])
            if matched.any()
            else None
        ),
        longer_wins=float(pairs.won(lengths).mean()),
        prefers_longer=float(model.mean()) if len(model) else None,
        labelers_prefer_longer=float(labelers.mean()) if len(model) else None,
    )


def within_correlation(one: np.ndarray, other: np.ndarray, owners: np.ndarray) -> float | None:
    """Pearson's correlation (N,) of what remains when each comparison's mean is taken away.

    None where one of the two never differs within a comparison.
    """
    first, second = _centred(one, owners), _centred(other, owners)
    spread = float(np.sqrt((first**2).sum() * (second**2).sum()))
    return float((first * second).sum()) / spread if spread > 1e-12 else None


def _centred(values: np.ndarray, owners: np.ndarray) -> np.ndarray:
    means = np.bincount(owners, weights=values) / np.bincount(owners)
    centred: np.ndarray = values - means[owners]
    return centred
