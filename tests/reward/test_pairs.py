"""Comparisons as pairs; the error of an accuracy; how often two people agree."""

from dataclasses import replace

import numpy as np
import pytest

from reward.pairs import accuracy, labelers_agree, pairs_of
from tests.reward.judged import comparison, three


def test_pairs_by_hand() -> None:
    """Completions are counted through: b's are 3 and 4."""
    pairs = pairs_of([row.comparison for row in three()])
    assert pairs.owner.tolist() == [0, 0, 0, 1, 2, 2]
    assert pairs.better.tolist() == [0, 0, 1, 4, 5, 6]
    assert pairs.worse.tolist() == [1, 2, 2, 3, 7, 7]
    assert pairs.ranks_apart.tolist() == [1, 2, 1, 1, 1, 1]
    assert np.isnan(pairs.margin).all()


def test_explicit_pairs_replace_the_ranks() -> None:
    pairs = pairs_of([comparison("a", [1, 2, 3], pairs=[(2, 0, 0.5)])])
    assert (pairs.better.tolist(), pairs.worse.tolist()) == ([2], [0])
    assert (pairs.ranks_apart.tolist(), pairs.margin.tolist()) == ([0], [0.5])


def test_the_error_is_over_comparisons() -> None:
    """Won 1, 1, 0; 1/2; 0, 1: mean 7/12, sums less their share 1/4, -1/12, -1/6.

    Their squares add up to 7/72; times 3/2, rooted, over six pairs: 0.0636469.
    """
    won, owner = np.array([1, 1, 0, 0.5, 0, 1]), np.array([0, 0, 0, 1, 2, 2])
    error = accuracy("all", won, owner).error
    assert error == pytest.approx(0.0636469, abs=1e-7)


def test_one_pair_a_comparison_has_the_error_of_a_mean() -> None:
    """Of 0, 1, 1, 1: variance 1/4 with three degrees of freedom, over four."""
    error = accuracy("all", np.array([0.0, 1, 1, 1]), np.arange(4)).error
    assert error == pytest.approx(0.25)


def test_a_single_comparison_has_no_error() -> None:
    assert accuracy("all", np.array([0.0, 1.0]), np.array([7, 7])).error is None


def test_two_people_on_the_same_completions() -> None:
    """a0 > a1 > a2 against a0 > a2 > a1, shown in another order: two of three pairs."""
    one = comparison("a", [1, 2, 3], labeler="ann")
    texts = ["a2", "a0", "a1"]
    other = comparison("a", [2, 1, 3], completions=texts, labeler="bob")
    elsewhere = comparison("b", [3, 2, 1], labeler="bob")
    assert labelers_agree([one, elsewhere, other]) == pytest.approx(2 / 3)


def test_nobody_agrees_with_himself() -> None:
    one = comparison("a", [1, 2, 3], labeler="ann")
    assert labelers_agree([one, one, comparison("b", [1, 2])]) is None
    assert labelers_agree([one, replace(one, labeler="bob")]) == 1.0
    assert labelers_agree([one, replace(one, labeler=None)]) is None
    assert labelers_agree([one, replace(one, labeler="bob", finished=[False] * 3)]) is None
