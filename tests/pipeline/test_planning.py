"""What a plan runs again and why, and what it refuses before any work."""

import json
import shutil
import subprocess
import sys
from collections import namedtuple
from dataclasses import replace
from pathlib import Path

import pytest

from pipeline.artifacts import Store
from pipeline.planning import Plan, make_plan
from pipeline.preflight import base_model_bytes, disk_estimate, run_faults
from pipeline.selection import Selection
from pipeline.summary import RunRecord, StageRecord, write_run
from pipeline.workflow import Graph, Stage
from stages.contracts import UserError
from stages.step0_base.config import BaseConfig
from tests.pipeline.toys import ToyConfig, make, plan_of, toy_graph

pytestmark = pytest.mark.usefixtures("without_torch")
ROOT = Path(__file__).parents[2]
Usage = namedtuple("Usage", "total used free")


def plan_with_faults(
    folder: Path, graph: Graph, **selection: object
) -> tuple[Plan, list[UserError]]:
    return make_plan(graph, Selection(**selection), Store(folder / "artifacts"), folder / "runs")


def test_a_second_run_executes_nothing(tmp_path: Path) -> None:
    assert plan_of(tmp_path, toy_graph()).to_run == ["left", "right", "total", "evaluation"]
    make(tmp_path, toy_graph())
    plan = plan_of(tmp_path, toy_graph())
    assert plan.to_run == []
    assert run_faults(plan, tmp_path / "runs" / "one") == []


@pytest.mark.parametrize(
    ("asset", "runs"),
    [
        ("left", ["left", "total", "evaluation"]),
        ("total", ["total", "evaluation"]),
        ("evaluation", ["evaluation"]),
    ],
)
def test_a_changed_config_runs_exactly_what_follows(
    tmp_path: Path, asset: str, runs: list[str]
) -> None:
    make(tmp_path, toy_graph())
    plan = plan_of(tmp_path, toy_graph(**{asset: ToyConfig(value=7)}))
    assert plan.to_run == runs
    assert plan.stages[asset].why == "changed: config value: 1.0 -> 7"
    assert all("changed: parent" in plan.stages[follower].why for follower in runs[1:])


def test_a_field_without_effect_runs_nothing(tmp_path: Path) -> None:
    make(tmp_path, toy_graph())
    assert plan_of(tmp_path, toy_graph(left=ToyConfig(log_every=1))).to_run == []


def test_force_runs_the_named_asset_alone_and_replaces_it(tmp_path: Path) -> None:
    before = make(tmp_path, toy_graph()).artifacts()["total"].manifest.time.started
    run = make(tmp_path, toy_graph(), Selection(force=("total",)))
    assert run.plan.to_run == ["total"]
    assert run.artifacts()["total"].manifest.time.started > before


def test_to_stage_ends_early(tmp_path: Path) -> None:
    assert make(tmp_path, toy_graph(), Selection(to_stage="left")).plan.to_run == ["left"]


def test_from_stage_needs_what_is_made_before_it(tmp_path: Path) -> None:
    _, (fault,) = plan_with_faults(tmp_path, toy_graph(), from_stage="total")
    assert "left (not made yet), right (not made yet)" in fault.got
    make(tmp_path, toy_graph(), Selection(to_stage="total"))
    plan = plan_of(tmp_path, toy_graph(), Selection(from_stage="total"))
    assert plan.to_run == ["evaluation"]


def test_a_given_run_or_folder_replaces_a_stage(tmp_path: Path) -> None:
    theirs = make(tmp_path / "theirs", toy_graph(left=ToyConfig(value=40))).artifacts()["left"]
    record = StageRecord(folder=str(theirs.folder))
    (tmp_path / "runs" / "theirs").mkdir(parents=True)
    write_run(tmp_path / "runs" / "theirs", RunRecord(run="theirs", stages={"left": record}))
    for named in (str(theirs.folder), "theirs", str(tmp_path / "runs" / "theirs")):
        run = make(tmp_path, toy_graph(), Selection(given={"left": named}))
        assert run.artifacts()["evaluation"].manifest.metrics == {"value": 42.0}
        assert run.plan.inputs("total")["left"] == theirs.folder


def test_the_judge_is_a_reward_model_and_another_one(tmp_path: Path) -> None:
    """By run or by folder. Mutations: a judge looked up by that name; the one trained on taken."""
    number = Stage(function=f"{ToyConfig.__module__}:number", config=ToyConfig())
    both = {"left": "reward_model", "right": "judge"}
    graph = {
        "reward_model": number,
        "judge": number,
        "evaluation": Stage(
            function=f"{ToyConfig.__module__}:total", config=ToyConfig(), reads=both
        ),
    }
    other = {"reward_model": replace(number, config=ToyConfig(value=40))}
    theirs = make(tmp_path / "theirs", other, Selection(to_stage="reward_model"))
    folder = str(theirs.artifacts()["reward_model"].folder)
    record = RunRecord(run="theirs", stages={"reward_model": StageRecord(folder=folder)})
    (tmp_path / "runs" / "theirs").mkdir(parents=True)
    write_run(tmp_path / "runs" / "theirs", record)
    for named in (folder, "theirs"):
        run = make(tmp_path, graph, Selection(given={"judge": named}))
        assert run.artifacts()["evaluation"].manifest.metrics == {"value": 42.0}
    own = str(run.artifacts()["reward_model"].folder)
    _, (fault,) = plan_with_faults(tmp_path, graph, given={"judge": own})
    assert fault.what == "the judge is the reward model that training maximises"
    assert fault.got == f"given.judge={own}"


def test_every_fault_is_reported_at_once(tmp_path: Path) -> None:
    """A wrong kind, a missing file, no artifact, no run: four stages, four faults, no work."""
    theirs = make(tmp_path / "theirs", toy_graph()).artifacts()
    graph = toy_graph() | {
        "total": Stage(
            function=f"{ToyConfig.__module__}:total",
            config=ToyConfig(),
            reads={name: name for name in ("left", "right", "base", "file")},
        ),
        "base": Stage(function="x:x", config=ToyConfig()),
        "file": Stage(function=f"{ToyConfig.__module__}:number", config=ToyConfig(path="nowhere")),
    }
    given = {"left": str(theirs["right"].folder), "right": str(tmp_path), "base": "no_such_run"}
    _, faults = plan_with_faults(tmp_path, graph, given=given)
    assert sorted(fault.what for fault in faults) == [
        "given.left is an artifact of another kind",
        "path of file names nothing",
        f"there is no such run in {tmp_path / 'runs'}",
        "this folder is no artifact",
    ]


def test_a_given_artifact_with_another_tokenizer_is_refused(tmp_path: Path) -> None:
    theirs = toy_graph(left=ToyConfig(tokenizer="others"))
    other = make(tmp_path / "theirs", theirs, Selection(to_stage="left"))
    make(tmp_path, toy_graph())
    given = {"left": str(other.artifacts()["left"].folder)}
    _, (fault,) = plan_with_faults(tmp_path, toy_graph(), given=given)
    assert "tokenizer_sha256 differs" in fault.what
    assert fault.got == "others in left; words in right"


def test_a_truncated_file_is_named_with_the_way_out(tmp_path: Path) -> None:
    folder = make(tmp_path, toy_graph()).artifacts()["left"].folder
    (folder / "number.txt").write_text("1")
    _, (fault,) = plan_with_faults(tmp_path, toy_graph())
    assert str(folder / "number.txt") in fault.what
    assert "force=[left]" in fault.do
    run = make(tmp_path, toy_graph(), Selection(force=("left",)))
    assert (run.artifacts()["left"].folder / "number.txt").read_text() == "1.0"


def test_changed_content_of_the_same_size_is_found_before_it_is_read(tmp_path: Path) -> None:
    folder = make(tmp_path, toy_graph()).artifacts()["total"].folder
    (folder / "number.txt").write_text("9.0")
    assert plan_of(tmp_path, toy_graph()).to_run == []
    plan = plan_of(tmp_path, toy_graph(evaluation=ToyConfig(value=2)))
    (fault,) = run_faults(plan, tmp_path / "run")
    assert "sha256 differs" in fault.got


def test_a_broken_manifest_is_no_traceback(tmp_path: Path) -> None:
    folder = make(tmp_path, toy_graph()).artifacts()["left"].folder
    manifest = json.loads((folder / "manifest.json").read_text())
    del manifest["files"]
    (folder / "manifest.json").write_text(json.dumps(manifest))
    _, (fault,) = plan_with_faults(tmp_path, toy_graph())
    assert "force=[left]" in fault.do


def test_unwritable_folders_are_reported_together(tmp_path: Path) -> None:
    (tmp_path / "artifacts").write_text("a file where the store should be")
    (tmp_path / "run").write_text("a file where the run should be")
    plan, faults = plan_with_faults(tmp_path, toy_graph())
    assert faults == []
    found = run_faults(plan, tmp_path / "run")
    assert [fault.what for fault in found] == [
        "the store cannot be written",
        "the run folder cannot be written",
    ]


def test_too_little_disk_is_found_before_any_work(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    plan = plan_of(tmp_path, {"evaluation": Stage(function="x:x", config=BaseConfig())})
    monkeypatch.setattr(shutil, "disk_usage", lambda path: Usage(0, 0, disk_estimate(plan) - 1))
    (fault,) = run_faults(plan, tmp_path / "run")
    assert "too little disk" in fault.what


def test_planning_imports_nothing_heavy() -> None:
    """A run with nothing to do is over in seconds."""
    code = "import sys, pipeline.preflight, pipeline.scheduler\n"
    code += "print({'torch', 'ray', 'pyarrow', 'transformers', 'trl'} & set(sys.modules))"
    printed = subprocess.run(
        [sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True, check=True
    )
    assert printed.stdout.strip() == "set()"


def test_the_size_of_a_llama() -> None:
    """V=10, h=4, i=8, 2 layers: 2x10x4 + 2 (4x16 + 3x4x8) = 400 numbers of 4 bytes."""
    config = BaseConfig(max_words=10, hidden_size=4, intermediate_size=8, num_layers=2, num_heads=2)
    assert base_model_bytes(config) == 1600
