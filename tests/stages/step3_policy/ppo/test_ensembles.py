"""PPO on an ensemble of reward models: its score, its members' disagreement, its critic."""

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch

from reward.config import Combine
from reward.ensemble import Ensemble, Rule, save_ensemble
from reward.model import critic_from, load_reward_model
from stages.lm.batching import collate
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.loading import decoders_of, load_parts, load_roles
from stages.step3_policy.ppo.placement import PlacementConfig
from tests.stages.step3_policy.ppo.small_ppo import folders_of, judged, small_config
from tests.stages.step3_policy.ppo.trajectories import (
    FOUR_FORWARDS,
    ONE_FORWARD,
    Processes,
    config_of,
    distance,
    first_difference,
    placed,
    run,
)

BATCH = collate([[1, 7, 8], [1, 9], [1, 10, 11, 12]], [[8, 9, 2], [13], [14, 8, 2]], 0)


def members_of(inputs: dict[str, Path]) -> list[Path]:
    """Two reward models with other heads."""
    return [inputs["reward_model"] / "model", judged(inputs)["judge"] / "model"]


def with_ensemble(inputs: dict[str, Path], members: list[Path], rule: Rule) -> dict[str, Path]:
    """The stage's inputs with an ensemble for its reward model."""
    folder = inputs["reward_model"].parent / f"ensemble_{rule.combine}_{len(members)}"
    save_ensemble(members, rule, 0.0, folder / "model")
    return inputs | {"reward_model": folder}


@pytest.mark.parametrize("combine", Combine)
def test_roles_score_as_the_rule_says(ppo_inputs: dict[str, Path], combine: Combine) -> None:
    """Whatever the size of a forward. Mutation: the spread of the raw scores in its place."""
    members, rule = members_of(ppo_inputs), Rule(combine=combine)
    folders = folders_of(with_ensemble(ppo_inputs, members, rule))
    role = load_roles(small_config(microbatch_tokens=12), folders).reward_model
    scores, disagreements = role.scores_and_disagreements(BATCH)
    alone = torch.stack([load_reward_model(member).scores(BATCH) for member in members])
    torch.testing.assert_close(scores, rule(alone))
    torch.testing.assert_close(role.scores(BATCH), scores)
    assert disagreements is not None
    torch.testing.assert_close(disagreements, (alone[0] - alone[1]).abs() / 2)  # of two members


def test_the_critic_starts_as_the_first_member(ppo_inputs: dict[str, Path]) -> None:
    first, second = members_of(ppo_inputs)
    folders = folders_of(with_ensemble(ppo_inputs, [second, first], Rule()))
    critic = load_roles(small_config(), folders).critic
    assert critic is not None
    expected = critic_from(load_reward_model(second)).values(BATCH)
    torch.testing.assert_close(critic.values(BATCH), expected)


def test_a_judge_may_be_an_ensemble(ppo_inputs: dict[str, Path]) -> None:
    members = members_of(ppo_inputs)
    judge = with_ensemble(ppo_inputs, members, Rule(combine=Combine.minimum))["reward_model"]
    folders: Any = folders_of(ppo_inputs | {"judge": judge})
    role = load_parts(small_config(), folders, ["judge"])["judge"]
    assert isinstance(role.model, Ensemble)
    alone = torch.stack([load_reward_model(member).scores(BATCH) for member in members])
    torch.testing.assert_close(role.scores(BATCH), alone.amin(0))


def test_every_member_computes_in_the_runs_precision(ppo_inputs: dict[str, Path]) -> None:
    """Mutation: the decoder of the first alone."""
    members = members_of(ppo_inputs)
    folders = folders_of(with_ensemble(ppo_inputs, members, Rule()))
    model = load_parts(small_config(), folders, ["reward_model"])["reward_model"].model
    assert decoders_of(model) == [member.network.base_model for member in model.members]


def test_disagreement_is_logged_of_an_ensemble_alone(
    ppo_inputs: dict[str, Path], make_loop: Callable[..., Any]
) -> None:
    single = make_loop()
    assert "reward/disagreement" not in single.iterate(0, 0.0)
    ppo_inputs |= with_ensemble(ppo_inputs, members_of(ppo_inputs), Rule())
    loop = make_loop(run="ensemble")
    prompts, rollouts = loop.sample(0)
    batch = collate(prompts.tokens, rollouts.tokens, loop.roles.policy.pad_token_id)
    alone = [member.scores(batch) for member in loop.roles.reward_model.model.members]
    expected = ((alone[0] - alone[1]).abs() / 2).mean().item()
    assert loop.iterate(0, 0.0)["reward/disagreement"] == pytest.approx(expected, abs=1e-5)


@pytest.fixture
def processes() -> Iterator[Processes]:
    torch.set_num_threads(1)
    made = Processes()
    yield made
    made.close()


def one_process() -> PpoConfig:
    return config_of(PlacementConfig(), ONE_FORWARD)


@pytest.mark.parametrize("combine", Combine)
def test_equal_members_train_the_policy_of_one(
    ppo_inputs: dict[str, Path], tmp_path: Path, combine: Combine
) -> None:
    """Two of them: sums and halves are exact."""
    single = run(one_process(), ppo_inputs, tmp_path / "single", iterations=2)
    member = ppo_inputs["reward_model"] / "model"
    equal = with_ensemble(ppo_inputs, [member, member], Rule(combine=combine))
    found = run(one_process(), equal, tmp_path / "equal", iterations=2)
    assert first_difference(found, single) == ""
    assert distance(found, single) == 0
    assert [row["reward/disagreement"] for row in found.figures] == [0, 0]


def test_two_ranks_of_ddp_follow_one_process(
    ppo_inputs: dict[str, Path], tmp_path: Path, processes: Processes
) -> None:
    rule = Rule(combine=Combine.uncertainty)
    inputs = with_ensemble(ppo_inputs, members_of(ppo_inputs), rule)
    two = config_of(placed(2, "ddp", split=False), FOUR_FORWARDS)
    expected = run(one_process(), inputs, tmp_path / "one", iterations=2)
    found = run(two, inputs, tmp_path / "two", workers=processes.of(two), iterations=2)
    assert first_difference(found, expected) == ""
    assert distance(found, expected) < 1e-5
    for a, b in zip(found.figures, expected.figures, strict=True):
        assert a["reward/disagreement"] == pytest.approx(b["reward/disagreement"], rel=1e-4)
