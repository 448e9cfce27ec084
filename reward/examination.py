"""What a reward model tells about itself: where it is right, how sure it is, whether length pays.

A *pair* is two completions of one comparison of which the labeler prefers one. An *accuracy* is the
share of pairs whose preferred completion scores higher, equal scores counting half. Figures depend
on score differences alone, so neither shift nor order of completions changes them; only the score
distributions know where zero is. `docs/metrics.md` defines each figure. No torch here.
"""

from collections.abc import Callable, Collection, Mapping, Sequence
from dataclasses import asdict, dataclass
from typing import Any

import numpy as np

from reward.agreement import Calibration, calibrate
from reward.length_bias import LengthBias, length_bias
from reward.pairs import Accuracy, Pairs, accuracy, accuracy_by, labelers_agree, pairs_of
from reward.score_distributions import Distribution, distribution
from stages.contracts import UserError
from stages.records.schemas import Comparison

CALIBRATION_BINS = 10
MARGIN_BINS = 5


@dataclass(kw_only=True)
class Scored:
    """One comparison beside its K scores and the K lengths of its completions in tokens."""

    comparison: Comparison
    scores: Sequence[float]
    lengths: Sequence[int]


@dataclass(kw_only=True)
class Examination:
    """All figures; a list is empty and a figure None where the comparisons do not give it.

    by_ranks_apart: steps between the two in the labeler's ranking, 1 for neighbours. by_margin:
    explicit pairs, by their margin. seen, held_out: pairs of labelers whose group training saw, and
    of the groups in `held_out_groups`. label_ceiling: what gold itself would reach.
    labelers_agree: two people on the same completions, of the pairs that neither ties.
    """

    comparisons: int
    overall: Accuracy
    by_k: list[Accuracy]
    by_ranks_apart: list[Accuracy]
    by_margin: list[Accuracy]
    by_group: list[Accuracy]
    by_subset: list[Accuracy]
    held_out_groups: list[str]
    seen: Accuracy | None
    held_out: Accuracy | None
    calibration: Calibration
    length: LengthBias
    scores: list[Distribution]
    label_ceiling: float | None
    labelers_agree: float | None

    def content(self) -> dict[str, Any]:
        """What is written to disk as JSON."""
        return asdict(self)

    def figures(self) -> dict[str, float]:
        """The headline figures, as far as they are known."""
        known = {
            "label_ceiling": self.label_ceiling,
            "labelers_agree": self.labelers_agree,
            "length_correlation": self.length.correlation,
            "prefers_longer": self.length.prefers_longer,
            "accuracy_longer_wins": self.length.longer_wins,
            "accuracy_length_matched": _value(self.length.matched),
            "accuracy_seen_groups": _value(self.seen),
            "accuracy_held_out_groups": _value(self.held_out),
        }
        return {name: value for name, value in known.items() if value is not None}


def examine(
    rows: Sequence[Scored],
    *,
    held_out_groups: Collection[str] = (),
    others: Mapping[str, Sequence[float]] | None = None,
    calibration_bins: int = CALIBRATION_BINS,
) -> Examination:
    """Everything that these comparisons say of the model that scored them.

    others: scores of more sources of responses (demonstrations, for one), by name. Raises UserError
    for a score that is not finite, and where no pair is untied.
    """
    _check_finite(rows)
    comparisons = [row.comparison for row in rows]
    pairs = pairs_of(comparisons)
    if not len(pairs):
        raise UserError(
            "no comparison to judge by",
            got=f"{len(rows)} comparisons whose completions all tie",
            do="examine comparisons in which one completion is better than another",
        )
    scores = _flat([row.scores for row in rows])
    outcomes = _Outcomes(pairs=pairs, won=pairs.won(scores), comparisons=comparisons)
    seen, held_out = outcomes.split(held_out_groups) if held_out_groups else (None, None)
    return Examination(
        comparisons=len(rows),
        overall=accuracy("all", outcomes.won, pairs.owner),
        by_k=outcomes.by(lambda row: len(row.completions)),
        by_ranks_apart=outcomes.among(pairs.ranks_apart, pairs.ranks_apart > 0),
        by_margin=outcomes.among(*_margins(pairs.margin)),
        by_group=outcomes.by(lambda row: row.labeler_group),
        by_subset=outcomes.by(lambda row: row.subset),
        held_out_groups=sorted(held_out_groups),
        seen=seen,
        held_out=held_out,
        calibration=calibrate(pairs.differences(scores), calibration_bins),
        length=length_bias(pairs, scores, _flat([row.lengths for row in rows]), _owners(rows)),
        scores=_distributions(rows, others or {}),
        label_ceiling=_label_ceiling(pairs, comparisons),
        labelers_agree=labelers_agree(comparisons),
    )


@dataclass(kw_only=True)
class _Outcomes:
    """Which pairs (P,) the model decided like the labeler, to be averaged over parts of them."""

    pairs: Pairs
    won: np.ndarray
    comparisons: Sequence[Comparison]

    def by(self, property_of: Callable[[Comparison], Any]) -> list[Accuracy]:
        """For each value of a property of comparisons; None is no value of it."""
        values = [property_of(row) for row in self.comparisons]
        known = np.array([value is not None for value in values], dtype=bool)
        owner = self.pairs.owner
        return self.among(np.array(values, dtype=object)[owner], known[owner])

    def among(self, values: np.ndarray, kept: np.ndarray) -> list[Accuracy]:
        """For each of the values (P,) that the kept pairs have."""
        return accuracy_by(self.won, self.pairs.owner, values, kept)

    def split(self, held_out_groups: Collection[str]) -> tuple[Accuracy | None, Accuracy | None]:
        """Of labelers whose group training saw, and of the others."""
        held_out = np.array([row.labeler_group in held_out_groups for row in self.comparisons])
        kept = held_out[self.pairs.owner]
        return self._of("seen", ~kept), self._of("held out", kept)

    def _of(self, name: str, kept: np.ndarray) -> Accuracy | None:
        return accuracy(name, self.won[kept], self.pairs.owner[kept]) if kept.any() else None


def _margins(margins: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """(P,) the lower end of each pair's bin of margins, and which pairs have a margin at all.

    Few different margins are bins of their own, many are cut at their quantiles.
    """
    given = np.isfinite(margins) & (margins != 0)
    distinct = np.unique(margins[given])
    if len(distinct) <= MARGIN_BINS:
        return margins, given
    edges = np.quantile(margins[given], np.arange(MARGIN_BINS) / MARGIN_BINS)
    places = np.searchsorted(edges, np.where(given, margins, edges[0]), side="right") - 1
    return edges[places], given


def _label_ceiling(pairs: Pairs, comparisons: Sequence[Comparison]) -> float | None:
    gold = [row.scores for row in comparisons if row.scores is not None]
    if len(gold) < len(comparisons):
        return None
    return float(pairs.won(_flat(gold)).mean())


def _distributions(
    rows: Sequence[Scored], others: Mapping[str, Sequence[float]]
) -> list[Distribution]:
    """One a source of completions, as the comparisons name them, then the others."""
    by_source: dict[str, list[float]] = {}
    for row in rows:
        for source, score in zip(row.comparison.source, row.scores, strict=True):
            by_source.setdefault(source, []).append(score)
    found = [*sorted(by_source.items()), *others.items()]
    return [distribution(source, scores) for source, scores in found if len(scores)]


def _check_finite(rows: Sequence[Scored]) -> None:
    for number, row in enumerate(rows):
        if not np.isfinite(row.scores).all():
            raise UserError(
                f"the reward model's score of comparison {number} is not a finite number",
                got=f"{list(row.scores)} for {row.comparison.prompt[-1]['content'][:80]!r}",
                do="use a model whose weights are finite, in float32",
            )


def _flat(lists: Sequence[Sequence[float]]) -> np.ndarray:
    return np.array([value for row in lists for value in row], dtype=np.float64)


def _owners(rows: Sequence[Scored]) -> np.ndarray:
    """(N,) which comparison each completion belongs to."""
    return np.repeat(np.arange(len(rows)), [len(row.scores) for row in rows])


def _value(share: Accuracy | None) -> float | None:
    return None if share is None else share.accuracy
