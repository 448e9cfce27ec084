"""PPO where no reward model reads the policy's tokens: there is none, or it is given text."""

import json
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.config import LengthRule, ModelTerm, RewardConfig, RulesConfig
from stages.contracts import Context, Report
from stages.step3_policy.ppo.loading import Folders, load_roles
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.stage import run
from tests.reward.test_text_model import write_reward_model
from tests.stages.step3_policy.ppo.small_ppo import small_config

RULES = RewardConfig(
    model=ModelTerm(weight=0.0), rules=RulesConfig(length=LengthRule(weight=1.0, max_words=2))
)


def run_stage(inputs: dict[str, Path], folder: Path, **changes: Any) -> Report:
    config = small_config(**changes)
    return run(config, **inputs, out=folder / "out", context=Context.at(folder))


def logged(folder: Path) -> list[dict[str, float]]:
    lines = (folder / "metrics.jsonl").read_text().splitlines()
    return [json.loads(line)["values"] for line in lines]


def test_a_reward_of_rules_needs_no_reward_model(
    ppo_inputs: dict[str, Path], tmp_path: Path
) -> None:
    del ppo_inputs["reward_model"]
    report = run_stage(ppo_inputs, tmp_path / "run", reward=RULES)
    assert report.metrics["iterations"] == 3
    _, first, *_ = logged(tmp_path / "run")
    assert first["rollout/score_mean"] == pytest.approx(first["rollout/reward/rules.length_mean"])
    assert "loss/value" in first


def test_the_critic_then_starts_as_the_policy_with_a_head_of_zeros(
    ppo_inputs: dict[str, Path],
) -> None:
    """All values 0, and the body is PPO's start. Mutation: a random head."""
    config = small_config(reward=RULES)
    roles = load_roles(config, Folders(start=ppo_inputs["ppo_init"] / "model"))
    assert roles.reward_model is None
    critic, policy = roles.critic.model, roles.policy.model
    assert not any(p.any() for p in critic.head.parameters())
    pairs = zip(critic.backbone.parameters(), policy.base_model.parameters(), strict=True)
    assert all(torch.equal(a, b) and a is not b for a, b in pairs)
    assert all(p.requires_grad for p in critic.parameters())
    assert any("head of 0" in caution for caution in config.cautions())
    assert not small_config().cautions()


def test_a_reward_model_of_another_tokenizer_is_given_text(
    ppo_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Its scores of the decoded responses are what is learnt from."""
    from reward import text_model

    asked: list[tuple[list[Any], list[str], list[float]]] = []
    scoring = text_model.TextRewardModel.__call__

    def spy(self: Any, prompts: Any, responses: Any, finished: Any) -> list[float]:
        asked.append((prompts, responses, scoring(self, prompts, responses, finished)))
        return asked[-1][2]

    monkeypatch.setattr(text_model.TextRewardModel, "__call__", spy)
    words = "mouse . , ? the cat dog ball box is red blue write about list count one two three and"
    foreign = write_reward_model(tmp_path / "foreign", words)
    inputs = ppo_inputs | {"reward_model": foreign.parent}
    report = run_stage(inputs, tmp_path / "run")
    assert report.metrics["iterations"] == 3
    start, first, *_ = logged(tmp_path / "run")
    for figure, (prompts, responses, scores) in (
        (start["validation/proxy"], asked[0]),
        (first["rollout/score_mean"], asked[1]),
    ):
        assert figure == pytest.approx(sum(scores) / len(scores), abs=1e-5)
        assert prompts[0][-1]["content"].startswith("write about")
        assert all("<eos>" not in response for response in responses)


def test_it_joins_a_sum_under_its_own_name(ppo_inputs: dict[str, Path], tmp_path: Path) -> None:
    """2 * model - length."""
    words = "two one cat the dog ball"
    foreign = write_reward_model(tmp_path / "foreign", words)
    start = ppo_inputs["ppo_init"] / "model"
    reward = RewardConfig(
        model=ModelTerm(weight=2.0), rules=RulesConfig(length=LengthRule(weight=-1.0, max_words=2))
    )
    config = small_config(reward=reward)
    from stages.lm.loading import load_tokenizer
    from stages.step3_policy.ppo.data import load_data

    roles = load_roles(config, Folders(start=start, text_reward_model=foreign))
    context, tokenizer = Context.at(tmp_path / "loop"), load_tokenizer(start)
    data = load_data(config, tokenizer, ppo_inputs["prompts"], ppo_inputs["text"], context)
    loop = PpoLoop(roles=roles, data=data, config=config, context=context)
    figures = loop.iterate(0, 0.02)
    expected = (
        2 * figures["rollout/reward/model_mean"] - figures["rollout/reward/rules.length_mean"]
    )
    assert figures["rollout/score_mean"] == pytest.approx(expected, abs=1e-5)
