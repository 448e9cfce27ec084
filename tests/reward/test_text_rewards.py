"""What a text reward may give back, and what its failure says."""

import math
import pickle

import pytest

from reward.text_rewards import RewardError, check_scores


def test_finite_numbers_pass_as_floats() -> None:
    assert check_scores("brevity", [1, 0.5, True], 3) == [1.0, 0.5, 1.0]


@pytest.mark.parametrize(
    ("scores", "rows", "cause"),
    [
        ([0.0, math.nan, 1.0], (1,), "nan is no finite number"),
        ([math.inf, 0.0, -math.inf], (0, 2), "inf is no finite number"),
        ([0.0, None, 1.0], (1,), "None is no finite number"),
        ([0.0, "0.5", 1.0], (1,), "'0.5' is no finite number"),
        ([0.0], (), "3 scores are wanted, got 1"),
        (None, (), "a list of 3 numbers is wanted, got None"),
        ("0.0", (), "a list of 3 numbers is wanted, got '0.0'"),
    ],
)
def test_anything_else_is_an_error_that_names_the_rows(
    scores: object, rows: tuple[int, ...], cause: str
) -> None:
    with pytest.raises(RewardError) as caught:
        check_scores("brevity", scores, 3)
    assert caught.value.component == "brevity"
    assert caught.value.rows == rows
    assert cause in str(caught.value)


def test_the_error_names_a_few_rows_and_counts_the_rest() -> None:
    error = RewardError("judge", range(10), "no answer")
    assert str(error) == (
        "the reward judge failed on row 0, 1, 2, 3, 4, 5, 6, 7 and 2 more: no answer"
    )


def test_the_error_survives_the_way_through_ray() -> None:
    error = pickle.loads(pickle.dumps(RewardError("judge", [3], "no answer")))
    assert (error.component, error.rows, error.cause) == ("judge", (3,), "no answer")
