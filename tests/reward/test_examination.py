"""An examination on six pairs worked out by hand, and what must not change it."""

import json
from dataclasses import replace
from random import Random
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.agreement import accuracy as plain_accuracy
from reward.agreement import qualities
from reward.examination import Scored, examine
from reward.pairs import Accuracy
from stages.contracts import UserError
from tests.reward.judged import comparison, three


def table(shares: list[Accuracy]) -> dict[str, tuple[float, int]]:
    return {share.name: (round(share.accuracy, 9), share.pairs) for share in shares}


def test_accuracies_by_hand() -> None:
    """Won are 1, 1, 0; 1/2; 0, 1. A tie at rank 1 leaves rank 3 one step behind.

    Mutation: better and worse swapped in `_pairs` gives 5/12.
    """
    found = examine(three())
    assert found.comparisons == 3
    assert (found.overall.accuracy, found.overall.pairs) == (pytest.approx(7 / 12), 6)
    assert table(found.by_k) == {"2": (0.5, 1), "3": (0.6, 5)}
    assert table(found.by_ranks_apart) == {"1": (0.5, 5), "2": (1.0, 1)}
    assert table(found.by_group) == {"x": (round(2 / 3, 9), 3), "y": (0.5, 3)}
    assert table(found.by_subset) == {"easy": (round(2 / 3, 9), 3), "hard": (0.5, 3)}
    assert found.by_margin == []


def test_the_ceiling_is_golds_own_accuracy() -> None:
    """Gold: 1, 1, 0; 1; 1/2, 1/2."""
    rows = three()
    assert examine(rows).label_ceiling == pytest.approx(4 / 6)
    rows[1].comparison = replace(rows[1].comparison, scores=None)
    assert examine(rows).label_ceiling is None


def test_groups_that_were_held_out() -> None:
    found = examine(three(), held_out_groups=["y"])
    assert found.held_out_groups == ["y"]
    assert found.seen is not None
    assert found.held_out is not None
    assert (found.seen.accuracy, found.seen.pairs) == (pytest.approx(2 / 3), 3)
    assert (found.held_out.accuracy, found.held_out.pairs) == (0.5, 3)
    nobody = examine(three(), held_out_groups=["z"])
    assert nobody.held_out is None
    assert nobody.seen == replace(nobody.overall, name="seen")


def test_explicit_pairs_by_margin() -> None:
    """Few margins are named as they are; a margin of 0 says nothing."""
    pairs = [(0, 1, 0.5), (2, 1, 0.5), (0, 2, 1.0), (0, 3, 0.0)]
    row = comparison("a", [1, 1, 1, 1], pairs=pairs)
    found = examine([Scored(comparison=row, scores=[2.0, 0.0, -1.0, 1.0], lengths=[1] * 4)])
    assert table(found.by_margin) == {"0.5": (0.5, 2), "1": (1.0, 1)}
    assert found.by_ranks_apart == []
    assert found.overall.pairs == 4


def test_many_margins_are_cut_at_their_quantiles() -> None:
    """Ten margins, 1 to 10, five bins of two; pairs of margin 5 and 6 are decided wrongly."""
    rows = [
        Scored(
            comparison=comparison(f"p{m}", [1, 1], pairs=[(0, 1, float(m))]),
            scores=[-1.0, 0.0] if m in (5, 6) else [1.0, 0.0],
            lengths=[1, 1],
        )
        for m in range(1, 11)
    ]
    shares = examine(rows).by_margin
    assert [share.pairs for share in shares] == [2] * 5
    assert [share.accuracy for share in shares] == [1, 1, 0, 1, 1]
    assert shares[0].name == "1"


def test_one_distribution_a_source() -> None:
    found = examine(three(), others={"demonstrations": [3.0, 5.0], "nobody": []})
    assert [(d.name, d.count) for d in found.scores] == [
        ("ppo", 1),
        ("sft", 7),
        ("demonstrations", 2),
    ]
    assert found.scores[0].mean == 1.0
    assert found.scores[2].mean == 4.0


def test_headlines_leave_out_what_is_not_known() -> None:
    figures = examine(three()).figures()
    assert set(figures) == {
        "label_ceiling",
        "length_correlation",
        "prefers_longer",
        "accuracy_longer_wins",
        "accuracy_length_matched",
    }
    assert {"accuracy_seen_groups", "accuracy_held_out_groups"} <= set(
        examine(three(), held_out_groups=["y"]).figures()
    )


ranking = st.integers(2, 5).flatmap(
    lambda k: st.tuples(
        st.lists(st.integers(1, k), min_size=k, max_size=k),
        st.lists(st.integers(-4, 4), min_size=k, max_size=k),
        st.lists(st.integers(1, 9), min_size=k, max_size=k),
    )
)


@given(st.lists(ranking, min_size=1, max_size=6), st.integers(-3, 3), st.randoms())
def test_order_and_shift_change_nothing(rankings: list, shift: int, random: Random) -> None:
    """Completions in another order, comparisons in another order, all scores shifted."""
    rows = [
        scored(f"p{number}", ranks, scores, lengths)
        for number, (ranks, scores, lengths) in enumerate(rankings)
        if len(set(ranks)) > 1
    ]
    if not rows:
        return
    other = [shuffled(row, random, shift) for row in rows]
    random.shuffle(other)
    assert figures(rows) == figures(other)


@given(st.lists(ranking, min_size=1, max_size=6))
def test_it_is_the_accuracy_that_training_reports(rankings: list) -> None:
    rows = [scored("p", *row) for row in rankings if len(set(row[0])) > 1]
    if rows:
        labels = qualities([row.comparison.ranks for row in rows])
        expected = plain_accuracy([row.scores for row in rows], labels)
        assert examine(rows).overall.accuracy == pytest.approx(expected.value)
        assert examine(rows).overall.pairs == expected.count


def scored(name: str, ranks: list[int], scores: list[int], lengths: list[int]) -> Scored:
    row = comparison(name, ranks, labeler_group=f"g{len(ranks)}")
    return Scored(comparison=row, scores=[float(s) for s in scores], lengths=lengths)


def shuffled(row: Scored, random: Random, shift: int) -> Scored:
    order = list(range(len(row.scores)))
    random.shuffle(order)
    ranks = [row.comparison.ranks[k] for k in order]
    return Scored(
        comparison=replace(row.comparison, ranks=ranks),
        scores=[row.scores[k] + shift for k in order],
        lengths=[row.lengths[k] for k in order],
    )


def figures(rows: list[Scored]) -> Any:
    content = examine(rows).content()
    del content["scores"]
    return json.loads(json.dumps(content), parse_float=lambda text: round(float(text), 9))


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_a_score_that_is_no_number_is_refused(bad: float) -> None:
    rows = three()
    rows[1].scores = [bad, 1.0]
    with pytest.raises(UserError, match="comparison 1 is not a finite number"):
        examine(rows)


def test_ties_alone_are_refused() -> None:
    tied = Scored(comparison=comparison("a", [1, 1]), scores=[0.0, 1.0], lengths=[1, 1])
    with pytest.raises(UserError, match="no comparison to judge by"):
        examine([tied])
