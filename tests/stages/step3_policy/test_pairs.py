"""Which ordered pairs a K-way comparison gives."""

import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison
from stages.step3_policy.config import PairRule
from stages.step3_policy.pairs import check_weights, draw_pairs, ordered_pairs


def comparison(ranks, **fields):
    count = len(ranks)
    return Comparison(
        prompt=[{"role": "user", "content": "the cat"}],
        completions=[f"completion {k}" for k in range(count)],
        source=["sft"] * count,
        finished=[True] * count,
        ranks=ranks,
        **fields,
    )


@pytest.mark.parametrize("count", range(2, 10))
def test_all_pairs_of_k_untied_completions(count):
    """K = 4..9 give 6, 10, 15, 21, 28, 36 pairs. Fails if better and worse are swapped."""
    ranks = list(range(count, 0, -1))  # the last is best
    pairs = ordered_pairs(comparison(ranks), PairRule.all)
    assert len(pairs) == len(set(pairs)) == count * (count - 1) // 2
    assert all(better > worse for better, worse in pairs)


RULES = [
    (PairRule.all, {(1, 0), (1, 2), (1, 3), (3, 0), (3, 2)}),
    (PairRule.best_worst, {(1, 0)}),
    (PairRule.adjacent, {(1, 3), (3, 0)}),
]


@pytest.mark.parametrize(("rule", "expected"), RULES)
def test_ties_make_no_pair(rule, expected):
    """Ranks 3, 1, 3, 2: the first and third completion tie for the last place."""
    pairs = ordered_pairs(comparison([3, 1, 3, 2]), rule)
    assert len(pairs) == len(expected)
    assert set(pairs) == expected


@pytest.mark.parametrize("rule", PairRule)
def test_all_tied_gives_nothing(rule):
    assert ordered_pairs(comparison([1, 1, 1]), rule) == []


@pytest.mark.parametrize("rule", PairRule)
def test_two_completions_are_one_pair_by_every_rule(rule):
    assert ordered_pairs(comparison([2, 1]), rule) == [(1, 0)]


def test_a_comparisons_own_pairs_replace_its_ranks():
    given = comparison([1, 2, 3], pairs=[(2, 0, 1.5)])
    assert ordered_pairs(given, PairRule.all) == [(2, 0)]


def test_weighted_comparisons_are_refused():
    check_weights([comparison([1, 2])])
    with pytest.raises(UserError, match="does not weight"):
        check_weights([comparison([1, 2], weight=0.5)])


def test_a_cap_draws_a_few_pairs_at_random():
    pairs = ordered_pairs(comparison([1, 2, 3, 4, 5, 6]), PairRule.all)
    drawn = [draw_pairs(pairs, 4, [0, row]) for row in range(50)]
    assert all(len(set(few)) == 4 and set(few) <= set(pairs) for few in drawn)
    assert {pair for few in drawn for pair in few} == set(pairs)
    assert drawn[7] == draw_pairs(pairs, 4, [0, 7])
    assert draw_pairs(pairs, None, [0]) == draw_pairs(pairs, 15, [0]) == pairs
