"""K-way comparisons to the ordered pairs that DPO trains on.

A comparison's own `pairs` are taken as they are. Otherwise its ranks make them, and ties never do:
`all` every untied pair; `best_worst` one pair, a best against a worst completion; `adjacent` one
pair for each two neighbouring ranks. Where equal ranks leave a choice, the completion listed first
stands for its rank. Every pair counts once, so a comparison weighs by its number of pairs, unless
that is capped: K = 9 completions make 36 pairs, which say little more than a few drawn at random.
"""

from collections.abc import Callable, Sequence
from itertools import pairwise

import numpy as np

from stages.contracts import UserError
from stages.records.schemas import Comparison
from stages.step3_policy.config import PairRule

Pair = tuple[int, int]  # indices of the better and the worse completion


def ordered_pairs(comparison: Comparison, rule: PairRule) -> list[Pair]:
    """The pairs of one comparison, by `rule`; none when all completions tie."""
    if comparison.pairs is not None:
        return [(better, worse) for better, worse, _margin in comparison.pairs]
    return _BY_RULE[rule](comparison.ranks)


def draw_pairs(pairs: list[Pair], max_pairs: int | None, key: list[int]) -> list[Pair]:
    """At most `max_pairs` of the pairs, in their order, drawn without replacement from `key`."""
    if max_pairs is None or len(pairs) <= max_pairs:
        return pairs
    chosen = np.random.default_rng(key).permutation(len(pairs))[:max_pairs]
    return [pairs[i] for i in sorted(chosen)]


def check_weights(comparisons: Sequence[Comparison]) -> None:
    """Raises UserError for weighted comparisons: this loss has no weights, and none is dropped."""
    weights = {comparison.weight for comparison in comparisons}
    if weights - {1.0}:
        raise UserError(
            "DPO does not weight comparisons",
            got=f"weights from {min(weights)} to {max(weights)}",
            do="set every weight to 1, or train a reward model and PPO on them",
        )


def _all(ranks: list[int]) -> list[Pair]:
    every = range(len(ranks))
    return [(i, j) for i in every for j in every if ranks[i] < ranks[j]]


def _best_worst(ranks: list[int]) -> list[Pair]:
    best, worst = ranks.index(min(ranks)), ranks.index(max(ranks))
    return [] if best == worst else [(best, worst)]


def _adjacent(ranks: list[int]) -> list[Pair]:
    first_of_rank = [ranks.index(rank) for rank in sorted(set(ranks))]
    return list(pairwise(first_of_rank))


_BY_RULE: dict[PairRule, Callable[[list[int]], list[Pair]]] = {
    PairRule.all: _all,
    PairRule.best_worst: _best_worst,
    PairRule.adjacent: _adjacent,
}
