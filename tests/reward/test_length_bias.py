"""Length bias by hand: what correlates, who prefers the longer, what remains at equal length."""

import numpy as np
import pytest

from reward.length_bias import length_bias, within_correlation
from reward.pairs import pairs_of
from tests.reward.judged import comparison, three


def test_figures_by_hand() -> None:
    """Lengths differ by 0, -2, -2; -2; -1, -1, won are 1, 1, 0; 1/2; 0, 1.

    Matched within a tenth: the first pair, and 10 beside 11. The model prefers the longer in
    0, 1; 1/2; 1, 0 of the five unequal pairs, the labelers never.
    Mutation: `longer < 0` for `longer > 0` swaps 0 and 1.
    """
    rows = three()
    scores = np.concatenate([row.scores for row in rows])
    lengths = np.concatenate([row.lengths for row in rows]).astype(float)
    pairs = pairs_of([row.comparison for row in rows])
    found = length_bias(pairs, scores, lengths, np.repeat([0, 1, 2], [3, 2, 3]))
    assert found.matched is not None
    assert (found.matched.accuracy, found.matched.pairs) == (pytest.approx(2 / 3), 3)
    assert found.longer_wins == pytest.approx(1 / 12)
    assert found.prefers_longer == 0.5
    assert found.labelers_prefer_longer == 0


def test_correlation_by_hand() -> None:
    """Centred scores -1, 1 and 1/4, -1/4, lengths -1/2, 1/2 twice: 0.75 / sqrt(2.125)."""
    owners = np.array([0, 0, 1, 1])
    scores, lengths = np.array([1.0, 3.0, 5.0, 4.5]), np.array([1.0, 2.0, 1.0, 2.0])
    expected = 0.75 / 2.125**0.5
    assert within_correlation(scores, lengths, owners) == pytest.approx(expected)


def test_what_differs_between_prompts_is_no_bias() -> None:
    """A prompt that asks for long answers and gets high scores. Mutation: no centring gives 1."""
    owners = np.array([0, 0, 1, 1])
    scores, lengths = np.array([1.0, 2.0, 101.0, 102.0]), np.array([2.0, 1.0, 52.0, 51.0])
    assert within_correlation(scores, lengths, owners) == pytest.approx(-1)
    assert within_correlation(scores, np.array([1.0, 1, 9, 9]), owners) is None


def test_equal_lengths_say_nothing_of_who_prefers_longer() -> None:
    pairs = pairs_of([comparison("a", [1, 2])])
    found = length_bias(pairs, np.array([1.0, 0.0]), np.array([4.0, 4.0]), np.array([0, 0]))
    assert (found.prefers_longer, found.labelers_prefer_longer, found.correlation) == (None,) * 3
    assert found.longer_wins == 0.5
