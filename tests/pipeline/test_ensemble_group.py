"""The group `ensemble`: the graph it makes, what another rule makes again, what is refused."""

from pathlib import Path
from typing import Any

import pytest

from pipeline.arithmetic import batch_arithmetic
from pipeline.artifacts import Store
from pipeline.composition import compose
from pipeline.config import run_id, selection, stage_configs
from pipeline.errors import FaultsError
from pipeline.planning import Plan, make_plan
from pipeline.preflight import TABLES_AND_LOGS, base_model_bytes, disk_estimate
from pipeline.workflow import workflow
from stages.contracts import UserError
from stages.step2_reward.ensemble_config import EnsembleConfig

THREE = ("+experiment=tiny", "ensemble=ensemble", "ensemble.members=3")
MEMBERS = [f"reward_member_{number}" for number in (1, 2, 3)]


def plan_of(folder: Path, *overrides: str) -> Plan:
    config = compose([*overrides, f"store={folder / 'store'}"])
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), folder / "runs")
    assert not faults
    return plan


def fingerprints(folder: Path, *overrides: str) -> dict[str, str]:
    stages = plan_of(folder, *overrides).stages
    return {asset: planned.fingerprint for asset, planned in stages.items()}


def test_members_are_branches_of_their_own(tmp_path: Path) -> None:
    """Mutation: a member that reads another one waits for it."""
    stages = plan_of(tmp_path, *THREE).stages
    for member in MEMBERS:
        assert set(stages[member].stage.reads) == {"sft", "comparisons", "demonstrations"}
    reads = stages["reward_model"].stage.reads
    assert reads == {"comparisons": "comparisons", **{member: member for member in MEMBERS}}
    assert isinstance(stages["reward_model"].stage.config, EnsembleConfig)
    assert stages["policy"].stage.reads["reward_model"] == "reward_model"
    assert len({stages[member].fingerprint for member in MEMBERS}) == 3


def test_one_member_is_the_plain_reward_model(tmp_path: Path) -> None:
    plain = fingerprints(tmp_path, "+experiment=tiny")
    assert (
        fingerprints(tmp_path, "+experiment=tiny", "ensemble=ensemble", "ensemble.members=1")
        == plain
    )
    assert not [asset for asset in plain if asset.startswith("reward_member")]
    assert list(stage_configs(compose(["+experiment=tiny"]))) == [
        asset for asset in stage_configs(compose(THREE)) if asset not in MEMBERS
    ]


@pytest.mark.parametrize("change", ["ensemble.combine=minimum", "ensemble.uncertainty_coef=2.0"])
def test_another_rule_trains_no_member_again(tmp_path: Path, change: str) -> None:
    """Mutation: the rule among a member's settings."""
    before, after = fingerprints(tmp_path, *THREE), fingerprints(tmp_path, *THREE, change)
    changed = {asset for asset in before if before[asset] != after[asset]}
    assert changed == {"reward_model", "policy", "evaluation"}
    assert run_id(compose([*THREE, change])) != run_id(compose(THREE))


def test_a_fourth_member_leaves_three_as_they_are(tmp_path: Path) -> None:
    before = fingerprints(tmp_path, *THREE)
    after = fingerprints(tmp_path, *THREE, "ensemble.members=4")
    assert [after[member] for member in MEMBERS] == [before[member] for member in MEMBERS]
    other = fingerprints(tmp_path, *THREE, "ensemble.data=disjoint")
    assert not {other[member] for member in MEMBERS} & set(before.values())


def test_an_ensemble_is_told_what_its_members_are() -> None:
    config: Any = compose([*THREE, "reward_model.held_out_groups=[brevity]"])
    assert config.ensemble.held_out_groups == ["brevity"]


def test_disk_and_batches_count_the_members(tmp_path: Path) -> None:
    """Kept: base 1, sft 1 and its epoch, ppo_init 1, members 3, policy 2; at work at once: PPO with
    its critic (12 and 2 averages) and three of 6. Mutation: one reward model's checkpoints."""
    plan = plan_of(tmp_path, *THREE)
    size = base_model_bytes(plan.stages["base"].stage.config)  # type: ignore[arg-type]
    assert disk_estimate(plan) == TABLES_AND_LOGS + size * (9 + 14 + 3 * 6)
    config = compose([*THREE, "ensemble.data=disjoint"])
    rows = {row.name: row.value for row in batch_arithmetic(config)["reward_member_1"]}
    assert rows["reward models"] == 3
    assert rows["prompts"] == 6  # 16 in three parts
    assert rows["optimizer steps"] == 1
    assert "reward_model" not in batch_arithmetic(config)


def test_what_has_no_sense_is_refused() -> None:
    for wrong, what in {
        ("ensemble.combine=minimum",): "members is 1",
        ("ensemble=ensemble", "ensemble.members=0"): "ensemble.members must be positive",
        ("ensemble=ensemble", "peft=lora"): "an ensemble is trained whole",
        ("ensemble.combine=median",): "wrong value for the config key ensemble.combine",
    }.items():
        with pytest.raises((UserError, FaultsError), match=what):
            compose(["+experiment=tiny", *wrong])
