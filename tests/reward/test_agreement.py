"""Agreement between judgements, on pairs counted by hand."""

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from reward.agreement import accuracy, agreement, calibrate, qualities, tie_share

judgement = st.lists(st.integers(-3, 3), min_size=4, max_size=4)


def test_accuracy_by_hand() -> None:
    """Truth orders a>b, a>c, ties b=c. Ours: a>b right, a<c wrong. Mutation: `sign` negated gives
    the same 0.5; the second prompt (right) tells them apart: 2 of 3."""
    ours = [[2.0, 1.0, 3.0], [1.0, 0.0]]
    truth = [[5.0, 4.0, 4.0], [1.0, 0.5]]
    share = accuracy(ours, truth)
    assert (share.value, share.count) == (pytest.approx(2 / 3), 3)


def test_our_ties_count_half() -> None:
    """Mutation: counting a tie as wrong gives 0."""
    assert accuracy([[1.0, 1.0]], [[1.0, 0.0]]).value == 0.5


def test_agreement_leaves_out_what_either_ties() -> None:
    """Pairs ab: tied by one; ac: agree; bc: disagree. Mutation: `|` for `&` gives 1/3."""
    share = agreement([[2.0, 2.0, 1.0]], [[3.0, 1.0, 2.0]])
    assert (share.value, share.count) == (0.5, 2)


def test_tie_share() -> None:
    assert tie_share(qualities([[1, 1, 2], [1, 2]])).value == pytest.approx(1 / 4)


def test_ranks_turn_into_qualities() -> None:
    """Mutation: `float(rank)` makes the best completion the worst."""
    assert accuracy([[0.9, 0.1]], qualities([[1, 2]])).value == 1.0


def test_no_pair_is_no_figure() -> None:
    assert accuracy([[1.0, 2.0]], [[1.0, 1.0]]).count == 0


@given(st.lists(judgement, min_size=1, max_size=5), st.integers(-5, 5))
def test_agreement_is_symmetric_and_ignores_shifts(one: list[list[int]], shift: int) -> None:
    other = [row[::-1] for row in one]
    shifted = [[value + shift for value in row] for row in other]
    assert agreement(one, other) == agreement(other, one)
    assert agreement(one, other) == agreement(one, shifted)


def test_calibration_by_hand() -> None:
    """Three pairs at probability 3/4, the labeler with the model in two of them; one at 1/2.

    Mutation: leaving out `np.abs` puts the reversed pair into no bin of its own.
    """
    ln3 = math.log(3)
    result = calibrate(np.array([ln3, ln3, -ln3, 0.0]), num_bins=2)
    low, high = result.bins
    assert (low["low"], low["high"], low["count"], low["observed"]) == (0.5, 0.75, 1, 0.5)
    assert high["count"] == 3
    assert high["predicted"] == pytest.approx(0.75)
    assert high["observed"] == pytest.approx(2 / 3)
    assert result.expected_error == pytest.approx(3 / 4 * (3 / 4 - 2 / 3))


def test_a_certain_model_lies_in_the_last_bin() -> None:
    """Probability 1 belongs to the last bin. Mutation: no `clip`."""
    (only,) = calibrate(np.array([1000.0]), num_bins=5).bins
    assert (only["low"], only["high"], only["observed"]) == (0.9, 1.0, 1.0)
