"""A distribution by hand."""

import pytest

from reward.score_distributions import distribution


def test_of_five_scores() -> None:
    found = distribution("sft", [4.0, 0.0, 2.0, 1.0, 3.0])
    assert (found.name, found.count, found.mean) == ("sft", 5, 2.0)
    assert found.std == pytest.approx(2**0.5)
    assert found.quantiles == pytest.approx([0.2, 1.0, 2.0, 3.0, 3.8])
