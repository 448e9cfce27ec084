"""docs/paper.md says what the code does: every key's default is the value beside it."""

import re
from pathlib import Path

import pytest

from stages.step1_sft.config import PpoInitConfig, SftConfig
from stages.step2_reward.config import CompletionsConfig, RewardModelConfig
from stages.step3_policy.ppo.config import PpoConfig

PAGE = (Path(__file__).parents[1] / "docs" / "paper.md").read_text()
CONFIGS = {
    "sft": SftConfig(),
    "ppo_init": PpoInitConfig(),
    "completions": CompletionsConfig(),
    "reward_model": RewardModelConfig(),
    "align": PpoConfig(),
}
ROWS = re.findall(r"\| ([^|]+) \| `(\w+)\.(\w+)` \|", PAGE)


@pytest.mark.parametrize(("value", "group", "key"), ROWS)
def test_default_is_the_value_on_the_page(value: str, group: str, key: str) -> None:
    default = getattr(CONFIGS[group], key)
    if isinstance(default, bool | str):
        assert str(default) == value.strip()
    else:
        assert float(value) == default


def test_the_page_has_its_rows() -> None:
    assert len(ROWS) > 30
