"""The weighted sum by hand."""

import math

import pytest
import torch

from reward.config import LengthRule, ModelTerm, RewardConfig, RulesConfig
from reward.text_rewards import RewardError
from reward.total import weighted_sum

SUM = RewardConfig(
    model=ModelTerm(weight=2.0),
    functions={"mine.brevity": -0.5},
    rules=RulesConfig(length=LengthRule(weight=3.0)),
)
OF_TEXTS = {"mine.brevity": [4.0, -2.0], "rules.length": [1.0, 0.5]}


def test_each_component_counts_with_its_weight() -> None:
    """2 * 0.25 - 0.5 * 4 + 3 * 1 = 1.5;  2 * -1 - 0.5 * -2 + 3 * 0.5 = 0.5."""
    scored = weighted_sum(SUM, torch.tensor([0.25, -1.0]), OF_TEXTS)
    assert scored.total.tolist() == [1.5, 0.5]
    assert {name: part.tolist() for name, part in scored.parts.items()} == {
        "model": [0.25, -1.0],
        **OF_TEXTS,
    }


def test_the_reward_model_alone_is_itself_to_the_last_bit() -> None:
    scores = torch.randn(64, generator=torch.Generator().manual_seed(0))
    assert torch.equal(weighted_sum(RewardConfig(), scores, {}).total, scores)


def test_the_sum_is_clipped_not_its_parts() -> None:
    """10 - 9.5 = 0.5 stays; clipping the parts first would give 1 - 1 = 0."""
    config = RewardConfig(functions={"mine.malus": -1.0}, clip=1.0)
    scored = weighted_sum(config, torch.tensor([10.0, 10.0, -10.0]), {"mine.malus": [9.5, 2, 2]})
    assert scored.total.tolist() == [0.5, 1.0, -1.0]
    assert scored.parts["model"].tolist() == [10.0, 10.0, -10.0]


def test_without_a_model_the_texts_are_all() -> None:
    config = RewardConfig(model=ModelTerm(weight=0.0), functions={"mine.brevity": 0.5})
    assert weighted_sum(config, None, {"mine.brevity": [4.0, 2.0]}).total.tolist() == [2.0, 1.0]


@pytest.mark.parametrize("wrong", [math.nan, math.inf])
def test_a_score_of_the_model_that_is_not_finite_is_an_error(wrong: float) -> None:
    with pytest.raises(RewardError, match="model failed on row 1"):
        weighted_sum(RewardConfig(), torch.tensor([0.0, wrong]), {})
