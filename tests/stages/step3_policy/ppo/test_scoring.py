"""PPO on a sum of rewards: what is learnt from, what is logged, what stops it."""

import json
import math
from collections.abc import Callable
from typing import Any

import pytest
import torch

from reward.config import LengthRule, ModelTerm, RewardConfig, RulesConfig
from reward.text_rewards import RewardError
from reward.text_sum import TextRewards
from stages.contracts import UserError
from stages.lm.tokens import decode_response
from stages.step3_policy.ppo.config import Advantage, MissingEos
from stages.step3_policy.ppo.loop import PpoLoop, make_experience

WITH_LENGTH = RewardConfig(
    model=ModelTerm(weight=2.0),
    rules=RulesConfig(length=LengthRule(weight=-0.5, max_words=2)),
)
LENGTH_ALONE = RewardConfig(
    model=ModelTerm(weight=0.0), rules=RulesConfig(length=LengthRule(weight=1.0, max_words=2))
)


def rewarded(loop: PpoLoop, reward: Callable[..., Any], name: str = "rules.length") -> PpoLoop:
    """The loop with another function under the name of a component."""
    loop.roles.text_rewards = TextRewards({name: reward}, loop.data.tokenizer)
    return loop


def test_the_loop_learns_from_the_weighted_sum(make_loop: Callable[..., PpoLoop]) -> None:
    """2 * model - 0.5 * length, at the last token of each response.

    Mutations: the model's score alone; a component before its weight.
    """
    loop = make_loop(reward=WITH_LENGTH, missing_eos=MissingEos.none)
    prompts, rollouts = loop.sample(0)
    experience = make_experience(loop.roles, prompts, rollouts, loop.config, 0.0)
    texts = [decode_response(loop.data.tokenizer, tokens) for tokens in rollouts.tokens]
    words = torch.tensor([float(len(text.split())) for text in texts])
    length = torch.minimum(torch.ones(8), 2 / words)
    of_model = loop.roles.reward_model.scores(experience.batch)
    torch.testing.assert_close(experience.scores, 2 * of_model - 0.5 * length)
    torch.testing.assert_close(experience.rewards.sum(1), experience.scores)
    half = experience.select([1, 3])
    torch.testing.assert_close(half.parts["model"], of_model[[1, 3]])


def test_text_rewards_read_the_messages_and_the_response_of_their_row(
    make_loop: Callable[..., PpoLoop],
) -> None:
    """Mutation: the prompts of another iteration."""
    seen: dict[str, list[Any]] = {}

    def spy(prompts: list[Any], responses: list[str], finished: list[bool]) -> list[float]:
        seen.update(prompts=prompts, responses=responses, finished=finished)
        return [float(row) for row in range(len(prompts))]

    loop = rewarded(make_loop(reward=WITH_LENGTH), spy)
    prompts, rollouts = loop.sample(1)
    experience = make_experience(loop.roles, prompts, rollouts, loop.config, 0.0)
    assert seen["prompts"] == prompts.messages
    assert seen["finished"] == rollouts.finished
    tokenizer = loop.data.tokenizer
    texts = [tokenizer.decode(row, skip_special_tokens=True) for row in rollouts.tokens]
    assert seen["responses"] == texts
    assert experience.parts["rules.length"].tolist() == [0, 1, 2, 3, 4, 5, 6, 7]


def test_every_component_is_logged_beside_their_sum(make_loop: Callable[..., PpoLoop]) -> None:
    loop = make_loop(reward=WITH_LENGTH)
    figures = loop.iterate(0, 0.02)
    of_model = figures["rollout/reward/model_mean"]
    of_length = figures["rollout/reward/rules.length_mean"]
    assert figures["rollout/score_mean"] == pytest.approx(2 * of_model - 0.5 * of_length, abs=1e-5)
    validated = loop.validate(*started(loop))
    assert validated["validation/proxy"] == pytest.approx(
        2 * validated["validation/reward/model"]
        - 0.5 * validated["validation/reward/rules.length"],
        abs=1e-5,
    )
    table = (loop.context.checkpoints.parent / "tables.jsonl").read_text()
    assert {"reward/model", "reward/rules.length"} <= set(json.loads(table)["rows"][0])


def started(loop: PpoLoop) -> tuple[Any, int]:
    from stages.step3_policy.ppo.state import LoopState

    return LoopState(kl_coef=0.02), 0


def test_the_reward_model_alone_logs_no_breakdown(make_loop: Callable[..., PpoLoop]) -> None:
    assert not [name for name in make_loop().iterate(0, 0.02) if "/reward/" in name]


@pytest.mark.parametrize("bad", [math.nan, "raises"])
def test_a_component_that_fails_stops_the_run_and_what_it_was_asked_is_kept(
    make_loop: Callable[..., PpoLoop], bad: Any
) -> None:
    """The checkpoint of the iteration before stays, no weight has moved since.

    Mutation: 0 in place of what failed.
    """
    calls = iter(range(9))

    def reward(prompts: list[Any], responses: list[str], finished: list[bool]) -> list[float]:
        if next(calls) < 2:  # the validation before the first iteration, and that iteration
            return [0.0] * len(prompts)
        if bad == "raises":
            raise RewardError("rules.length", [5], "no answer")
        return [0.0] * 5 + [bad] + [0.0] * 2

    loop = rewarded(make_loop(reward=WITH_LENGTH), reward)
    with pytest.raises(UserError) as caught:
        loop.train()
    assert (
        "PPO stopped in iteration 2: the reward rules.length failed on row 5" in caught.value.what
    )
    asked = loop.data.prompts_of(1)[1].messages[5][-1]["content"]
    assert repr(asked) in caught.value.got
    folder = loop.context.checkpoints
    kept = json.loads((folder / "unscored_batch_of_iteration_2.json").read_text())
    assert (kept["component"], kept["rows"], len(kept["asked"])) == ("rules.length", [5], 8)
    assert kept["asked"][5]["prompt"][-1]["content"] == asked
    again = rewarded(make_loop(reward=WITH_LENGTH), lambda p, r, f: [0.0] * len(p))
    assert again.train().iterations == 3
    records = (folder.parent / "metrics.jsonl").read_text().splitlines()
    assert [json.loads(record)["step"] for record in records] == [0, 1, 2, 3]


def test_a_failure_in_validation_says_so(make_loop: Callable[..., PpoLoop]) -> None:
    loop = rewarded(make_loop(reward=WITH_LENGTH), lambda p, r, f: [math.nan] * len(p))
    with pytest.raises(UserError, match=r"in validation after iteration 0: .* on row 0, 1, 2, 3"):
        loop.train()


def test_a_reward_model_that_gives_nan_is_a_failed_component(
    make_loop: Callable[..., PpoLoop],
) -> None:
    loop = make_loop()
    with torch.no_grad():
        loop.roles.reward_model.model.network.score.weight.fill_(math.nan)
    with pytest.raises(UserError, match="iteration 1: the reward model failed on row 0"):
        loop.iterate(0, 0.02)


@pytest.mark.parametrize("advantage", [Advantage.gae, Advantage.rloo])
def test_a_reward_of_rules_alone_rises(
    make_loop: Callable[..., PpoLoop], advantage: Advantage
) -> None:
    """Short responses pay: Mutation: the sign of a weight."""
    loop = make_loop(
        reward=LENGTH_ALONE,
        iterations=12,
        rollout_batch_size=32,
        minibatch_size=16,
        samples_per_prompt=4,
        kl_coef=0.0,
        ptx_coef=0.0,
        missing_eos=MissingEos.none,
        policy_lr=1e-2,
        critic_lr=1e-2,
        advantage=advantage,
    )
    first = loop.iterate(0, 0.0)["rollout/score_mean"]
    last = [loop.iterate(i, 0.0)["rollout/score_mean"] for i in range(1, 12)][-1]
    assert last > first + 0.2
