"""Kills of `python -m tests.faults`: one of each kind; all 40 are its own command."""

import json
from pathlib import Path

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from safetensors.numpy import save_file

from tests.faults.harness import survive
from tests.faults.plan import PHASES, SCENARIOS, plan
from tests.faults.runs import difference

SOME = [
    ("driver", "checkpoint"),
    ("ref_policy[0]", "scoring"),
    ("policy[1]", "update"),
    ("node", "sync"),
]


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("faults")


@pytest.mark.slow
@pytest.mark.ray
@pytest.mark.timeout(900)
@pytest.mark.parametrize(("victim", "phase"), SOME)
def test_a_killed_run_ends_as_one_that_nobody_killed(folder: Path, victim: str, phase: str) -> None:
    (trial,) = [kill for kill in plan() if (kill.victim, kill.phase) == (victim, phase)]
    assert survive(trial, folder)["survived"]


def test_every_victim_is_killed_in_every_phase() -> None:
    kills = plan()
    victims = [(name, victim) for name, own in SCENARIOS.items() for victim in own.victims]
    asked = {(kill.scenario, kill.victim, kill.phase) for kill in kills}
    assert asked == {(*victim, phase) for victim in victims for phase in PHASES}
    assert [kill.number for kill in kills] == list(range(1, 41))
    assert kills == plan()


def a_run(folder: Path, weight: float, steps: int) -> Path:
    """What a finished run leaves of its policy."""
    model = folder / "store" / "policy" / "abc" / "model"
    model.mkdir(parents=True)
    save_file({"weight": np.array([1.0, weight], np.float32)}, model / "model.safetensors")
    rows = [{"stage": "policy", "step": step, "name": "rollout/kl"} for step in range(steps)]
    (folder / "run").mkdir()
    pq.write_table(pa.Table.from_pylist(rows), folder / "run" / "metrics.parquet")
    return folder


def test_the_comparison_sees_weights_and_lost_figures(tmp_path: Path) -> None:
    whole, same = a_run(tmp_path / "whole", 2.0, 3), a_run(tmp_path / "same", 2.0, 3)
    assert difference(same, whole) == 0
    assert difference(a_run(tmp_path / "other", 2.5, 3), whole) == 0.5
    with pytest.raises(AssertionError, match="another set of figures"):
        difference(a_run(tmp_path / "short", 2.0, 2), whole)
    left = same / "store" / "work" / "abc" / "checkpoints" / "step_000000003"
    left.mkdir(parents=True)
    (left / "manifest.json").write_text(json.dumps({}))
    with pytest.raises(AssertionError, match="checkpoints are left"):
        difference(same, whole)
