"""Comparisons as pairs: the labeler's favourite, the other, and how far apart they were put.

Dimension letters: P pairs, N completions of all comparisons, one comparison after another.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np

from reward.agreement import agreement
from stages.records.schemas import Comparison


@dataclass(frozen=True, kw_only=True)
class Pairs:
    """All pairs that a labeler did not tie; each array is (P,).

    owner: the comparison. better, worse: places among the N completions. ranks_apart: steps between
    the two in the ranking, ranks without a completion not counted; 0 of a pair that was given as
    such. margin: of a pair that was given as such; NaN of others.
    """

    owner: np.ndarray
    better: np.ndarray
    worse: np.ndarray
    ranks_apart: np.ndarray
    margin: np.ndarray

    def __len__(self) -> int:
        return len(self.owner)

    def differences(self, values: np.ndarray) -> np.ndarray:
        """(P,) value of the favourite minus that of the other, from values (N,)."""
        difference: np.ndarray = values[self.better] - values[self.worse]
        return difference

    def won(self, values: np.ndarray) -> np.ndarray:
        """(P,) 1 where the favourite has the higher value, 1/2 where both are equal, else 0."""
        outcomes: np.ndarray = 0.5 + 0.5 * np.sign(self.differences(values))
        return outcomes


@dataclass(frozen=True, kw_only=True)
class Accuracy:
    """A share of pairs. error: its standard error over comparisons; None of a single one."""

    name: str
    accuracy: float
    error: float | None
    pairs: int


def pairs_of(comparisons: Sequence[Comparison]) -> Pairs:
    """Explicit pairs where a comparison has them, else all that its ranks do not tie."""
    rows: list[tuple[int, int, int, int, float]] = []
    start = 0
    for owner, comparison in enumerate(comparisons):
        rows += [
            (owner, start + better, start + worse, apart, margin)
            for better, worse, apart, margin in _pairs(comparison)
        ]
        start += len(comparison.completions)
    columns = np.array(rows, dtype=np.float64).reshape(-1, 5).T
    owner, better, worse, apart = columns[:4].astype(np.int64)
    return Pairs(owner=owner, better=better, worse=worse, ranks_apart=apart, margin=columns[4])


def _pairs(comparison: Comparison) -> Iterator[tuple[int, int, int, float]]:
    """(better, worse, ranks apart, margin) of one comparison."""
    if comparison.pairs is not None:
        yield from ((better, worse, 0, margin) for better, worse, margin in comparison.pairs)
        return
    _, steps = np.unique(comparison.ranks, return_inverse=True)
    for one, other in combinations(range(len(steps)), 2):
        better, worse = (one, other) if steps[one] < steps[other] else (other, one)
        if steps[one] != steps[other]:
            yield better, worse, int(steps[worse] - steps[better]), float("nan")


def accuracy(name: str, won: np.ndarray, owner: np.ndarray) -> Accuracy:
    """The mean of `won` (P,). Pairs of one comparison share completions: they are no P draws.

    The error is that of a ratio of two sums over comparisons, linearised.
    """
    mean = float(won.mean())
    _, places = np.unique(owner, return_inverse=True)
    residuals = np.bincount(places, weights=won - mean)
    number = len(residuals)
    error = None
    if number > 1:
        error = float(np.sqrt(number / (number - 1) * (residuals**2).sum()) / len(won))
    return Accuracy(name=name, accuracy=mean, error=error, pairs=len(won))


def accuracy_by(
    won: np.ndarray, owner: np.ndarray, values: np.ndarray, kept: np.ndarray
) -> list[Accuracy]:
    """The accuracy for each of the values (P,), in their order, among the pairs that are kept."""
    return [
        accuracy(_named(value), won[rows], owner[rows])
        for value in sorted(set(values[kept].tolist()))
        for rows in [kept & (values == value)]
    ]


def labelers_agree(comparisons: Sequence[Comparison]) -> float | None:
    """How often two people order a pair alike that neither ties; None where nobody is doubled.

    Two people judged the same thing where prompt and completions are equal, in whatever order; who
    judged must be known.
    """
    judged: dict[str, list[tuple[str | None, list[float]]]] = {}
    for row in comparisons:
        if row.pairs is None:
            entries = sorted(zip(row.completions, row.finished, row.ranks, strict=True))
            same = repr((row.prompt, [(text, finished) for text, finished, _ in entries]))
            qualities = [-float(rank) for *_, rank in entries]
            judged.setdefault(same, []).append((row.labeler, qualities))
    twice = [
        (mine, yours)
        for judgements in judged.values()
        for (me, mine), (you, yours) in combinations(judgements, 2)
        if None not in (me, you) and me != you
    ]
    share = agreement([one for one, _ in twice], [other for _, other in twice])
    return share.value if share.count else None


def _named(value: object) -> str:
    return f"{value:g}" if isinstance(value, float) else str(value)
