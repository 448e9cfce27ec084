"""Do two ways of judging the same completions agree: accuracy, label ceiling, calibration.

A judgement is one list of qualities a prompt, higher is better (a rank counts as its negative). All
figures are means over pairs of completions of one prompt. No torch here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

Judgements = Sequence[Sequence[float]]  # one list of K qualities a prompt


@dataclass(frozen=True)
class Share:
    """A mean over `count` pairs; NaN-free: 0 of no pair."""

    value: float
    count: int


def qualities(ranks: Sequence[Sequence[int]]) -> list[list[float]]:
    """Ranks (1 is best) as qualities (higher is better)."""
    return [[-float(rank) for rank in row] for row in ranks]


def differences(judgements: Judgements) -> np.ndarray:
    """(pairs,) float64: quality of i minus quality of j, for i < j, prompt after prompt."""
    parts = [np.zeros(0)]
    for row in judgements:
        values = np.asarray(row, dtype=np.float64)
        first, second = np.triu_indices(len(values), k=1)
        parts.append(values[first] - values[second])
    return np.concatenate(parts)


def accuracy(judged: Judgements, truth: Judgements) -> Share:
    """Of the pairs that `truth` does not tie, the share `judged` orders alike; its ties: half."""
    ours, theirs = differences(judged), differences(truth)
    kept = theirs != 0
    return _mean(0.5 + 0.5 * np.sign(ours[kept]) * np.sign(theirs[kept]))


def agreement(one: Judgements, other: Judgements) -> Share:
    """The share of equal orders among the pairs that neither ties."""
    a, b = np.sign(differences(one)), np.sign(differences(other))
    kept = (a != 0) & (b != 0)
    return _mean((a == b)[kept].astype(np.float64))


def tie_share(judged: Judgements) -> Share:
    """The share of all pairs that are tied."""
    return _mean((differences(judged) == 0).astype(np.float64))


@dataclass(kw_only=True)
class Calibration:
    """Predicted against observed preference; expected_error: their mean distance over pairs."""

    bins: list[dict[str, Any]]
    expected_error: float


def calibrate(leads: np.ndarray, num_bins: int) -> Calibration:
    """Predicted and observed preference of pairs, along the probability that the model states.

    leads: (P,) score of what the labeler prefers minus that of the other. Each pair is turned so
    that the model's favourite comes first: its probability, sigmoid of the score difference
    (Eq. 1), lies in [0.5, 1]; bins of equal width, empty ones left out.
    """
    predicted = 1 / (1 + np.exp(-np.abs(leads)))
    observed = 0.5 + 0.5 * np.sign(leads)
    edges = np.linspace(0.5, 1.0, num_bins + 1)
    places = np.clip(np.digitize(predicted, edges) - 1, 0, num_bins - 1)
    bins = [
        _bin(edges[place], edges[place + 1], predicted[places == place], observed[places == place])
        for place in np.unique(places)
    ]
    distance = sum(b["count"] * abs(b["predicted"] - b["observed"]) for b in bins)
    return Calibration(bins=bins, expected_error=float(distance) / max(1, len(predicted)))


def _bin(low: float, high: float, predicted: np.ndarray, observed: np.ndarray) -> dict[str, Any]:
    return {
        "low": float(low),
        "high": float(high),
        "predicted": float(predicted.mean()),
        "observed": float(observed.mean()),
        "count": len(predicted),
    }


def _mean(values: np.ndarray) -> Share:
    return Share(float(values.mean()) if len(values) else 0.0, len(values))
