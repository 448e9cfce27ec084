"""The group `peft`: what it reaches, and which adapters are refused before any work."""

from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from pipeline.artifacts import Store
from pipeline.composition import compose
from pipeline.config import selection, stage_configs
from pipeline.errors import FaultsError
from pipeline.planning import Action, Plan, make_plan
from pipeline.preflight import run_faults
from pipeline.workflow import workflow
from stages.contracts import UserError
from stages.lm.peft.config import PeftKind

LORA = ["+experiment=tiny", "peft=lora", "peft.rank=4"]


def test_it_reaches_all_that_is_trained() -> None:
    """Mutation: an option that does not refer to the group."""
    config: Any = compose(LORA)
    assert config.sft.peft.rank == config.ppo_init.peft.rank == 4
    assert config.sft.peft.kind is config.ppo_init.peft.kind is PeftKind.lora
    assert config.reward_model.peft is config.align.peft is PeftKind.lora
    assert compose([*LORA, "align=dpo"]).align.peft is PeftKind.lora
    assert compose([*LORA, "align=grpo"]).align.peft is PeftKind.lora
    whole: Any = compose([])
    assert whole.sft.peft.kind is whole.reward_model.peft is whole.align.peft is PeftKind.none


@pytest.mark.parametrize("align", ["ppo_ptx", "dpo"])
def test_what_trains_copies_of_adapters_reads_their_base(align: str) -> None:
    adapters = workflow(stage_configs(compose([*LORA, f"align={align}"])))
    whole = workflow(stage_configs(compose(["+experiment=tiny", f"align={align}"])))
    for asset in ("reward_model", "policy"):
        assert adapters[asset].reads == {**whole[asset].reads, "base": "base"}


def test_biases_of_a_base_that_has_none_are_refused() -> None:
    with pytest.raises((UserError, FaultsError), match="no biases to train"):
        compose(["+experiment=tiny", "peft=bitfit"])


@pytest.mark.parametrize("kind", [kind for kind in PeftKind if kind is not PeftKind.bitfit])
def test_every_option_is_a_method(kind: PeftKind) -> None:
    config: Any = compose(["+experiment=tiny", f"peft={kind}", "base.max_length=148"])
    assert config.sft.peft.kind is config.align.peft is kind


def test_virtual_tokens_need_positions() -> None:
    """Mutation: only the text counted."""
    with pytest.raises((UserError, FaultsError), match="take positions") as fault:
        compose(["+experiment=tiny", "peft=prompt", "base.max_length=147"])
    assert "base.max_length=148" in str(fault.value)


def test_a_fault_is_told_once() -> None:
    with pytest.raises((UserError, FaultsError)) as caught:
        compose(["peft=lora", "peft.rank=0"])
    assert str(caught.value).count("rank must be positive") == 1


def plan_with(tmp_path: Path, bases: dict[str, str | None]) -> Plan:
    """A run that is to make the policy alone; the others are there with these bases."""
    config = compose([*LORA, f"store={tmp_path / 'store'}"])
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), tmp_path / "runs")
    assert not faults
    for asset, base in bases.items():
        contract = {} if base is None else {"base_sha256": base}
        manifest = SimpleNamespace(contract=contract, model_sha256=base, model_size=0, files={})
        artifact: Any = SimpleNamespace(folder=tmp_path, manifest=manifest)
        made = replace(plan.stages[asset], action=Action.CACHED, artifact=artifact)
        plan.stages[asset] = made
    return plan


def test_adapters_of_one_base_are_fine(tmp_path: Path) -> None:
    one = dict.fromkeys(("base", "sft", "ppo_init", "reward_model"), "aaaa")
    assert run_faults(plan_with(tmp_path, one), tmp_path / "run") == []


@pytest.mark.parametrize(
    ("other", "told"), [("bbbb", "reward_model: bbbb"), (None, "reward_model: none")]
)
def test_adapters_of_different_bases_are_named(
    tmp_path: Path, other: str | None, told: str
) -> None:
    """Mutation: only what is to be made looked at."""
    bases = {"base": "aaaa", "sft": "aaaa", "ppo_init": "aaaa", "reward_model": other}
    (fault,) = run_faults(plan_with(tmp_path, bases), tmp_path / "run")
    assert "must lie on one base" in fault.what
    assert told in fault.got
    assert "base: aaaa" in fault.got
