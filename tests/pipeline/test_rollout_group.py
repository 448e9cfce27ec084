"""The group `rollout`: where it counts, and what is told of it before any work."""

from pathlib import Path

import pytest

from pipeline.artifacts import Store
from pipeline.composition import compose
from pipeline.config import run_id, selection, stage_configs
from pipeline.errors import FaultsError
from pipeline.planning import make_plan
from pipeline.preflight import run_faults
from pipeline.sources import Sources
from pipeline.workflow import workflow
from stages.contracts import UserError
from stages.lm.engines.config import Correction, EngineKind
from stages.step3_policy.ppo.config import PpoConfig


def test_ppo_takes_the_engine_of_the_group() -> None:
    config = compose(["rollout=vllm", "rollout.async_steps=1"]).align
    assert isinstance(config, PpoConfig)
    assert config.rollout.kind is EngineKind.vllm
    assert (config.rollout.async_steps, config.rollout.correction) == (1, Correction.truncate)


def test_the_engine_counts_where_it_is_used() -> None:
    """It changes what PPO learns, and nothing of DPO; how long one waits for it changes nothing."""
    plain = run_id(compose([]))
    assert run_id(compose(["rollout=vllm"])) != plain
    assert run_id(compose(["rollout.generate_s=5", "rollout.python=/x"])) == plain
    assert run_id(compose(["align=dpo", "rollout=vllm"])) == run_id(compose(["align=dpo"]))


@pytest.mark.parametrize("override", ["rollout.top_p=2", "+rollout.tokens=3"])
def test_a_fault_is_told_once_with_the_key_that_was_typed(override: str) -> None:
    with pytest.raises((UserError, FaultsError)) as caught:
        compose([override])
    assert "align.rollout" not in str(caught.value)
    assert "rollout." in str(caught.value)


def test_a_missing_environment_is_told_before_any_work(tmp_path: Path) -> None:
    config = compose(["rollout=vllm", f"rollout.python={tmp_path}/python", f"store={tmp_path}/s"])
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), tmp_path / "runs")
    assert not faults
    (fault,) = run_faults(plan, tmp_path / "runs" / "run")
    assert "make vllm" in fault.do


def test_code_that_runs_in_vllms_process_counts_too() -> None:
    """Changing it makes another policy. Mutation: the client's import of it taken out."""
    code = Sources().version("stages.step3_policy.ppo.stage")
    assert {"stages.lm.engines.server.vllm_server", "stages.lm.engines.server.wire"} <= code.keys()
