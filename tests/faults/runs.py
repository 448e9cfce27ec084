"""Runs that are killed, and what they leave to compare."""

import json
import os
import shutil
import subprocess
import sys
from pathlib import Path

import pyarrow.parquet as pq
from safetensors.numpy import load_file

from tests.faults.plan import ITERATIONS, Scenario

OWN = (
    "+experiment=tiny",
    f"align.iterations={ITERATIONS}",
    "align.checkpoint_every=1",
    "align.validation_every=8",
    "cluster.dashboard=false",
)


def start(folder: Path, *overrides: str) -> subprocess.Popen[bytes]:
    """A run in the background; what it prints goes to a file."""
    own = (f"store={folder / 'store'}", f"run_dir={folder / 'run'}", *OWN)
    command = [sys.executable, "-m", "pipeline", "run", *own, *overrides]
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / "printed.txt").open("a") as printed:
        return subprocess.Popen(
            command, stdout=printed, stderr=printed, env=os.environ | {"HF_HUB_OFFLINE": "1"}
        )


def finish(folder: Path, process: subprocess.Popen[bytes]) -> None:
    """Wait for the end; an error if it failed."""
    if process.wait() != 0:
        raise AssertionError(f"the run failed: {(folder / 'printed.txt').read_text()[-2000:]}")


def iterations_done(folder: Path) -> int:
    """By the progress of the stages under way."""
    noted = (folder / "store").glob("work/*/journal/progress.json")
    return max((json.loads(path.read_text())["done"] for path in noted), default=0)


def is_saving(folder: Path) -> bool:
    """A checkpoint is half written."""
    return any((folder / "store").glob("work/*/checkpoints/writing.tmp"))


def prepare(folder: Path) -> Path:
    """A store with everything that comes before the policy, made once."""
    if not (folder / "done").exists():
        finish(folder, start(folder, "executor=local", "to_stage=reward_model"))
        (folder / "done").touch()
    return folder / "store"


def oracle(folder: Path, prepared: Path, scenario: Scenario) -> Path:
    """The run that nobody killed, made once."""
    if not (folder / "done").exists():
        shutil.rmtree(folder, ignore_errors=True)
        shutil.copytree(prepared, folder / "store")
        finish(folder, start(folder, "to_stage=policy", *scenario.overrides))
        (folder / "done").touch()
    return folder


def difference(folder: Path, whole: Path) -> float:
    """The largest of any weight of the policy, and nothing lost: every figure was logged, once."""
    assert figures(folder) == figures(whole), "another set of figures than the whole run's"
    assert not list((folder / "store").glob("work/*/checkpoints/*")), "checkpoints are left"
    weights, expected = ({**load_file(path)} for path in map(policy_file, (folder, whole)))
    assert weights.keys() == expected.keys()
    return max(float(abs(weights[name] - expected[name]).max()) for name in weights)


def policy_file(folder: Path) -> Path:
    """The weights of the one policy in a run's store."""
    (path,) = (folder / "store" / "policy").glob("*/model/model.safetensors")
    return path


def figures(folder: Path) -> list[tuple[int, str]]:
    """Step and name of all that the policy's stage logged."""
    table = pq.read_table(folder / "run" / "metrics.parquet", filters=[("stage", "=", "policy")])
    return sorted((row["step"], row["name"]) for row in table.to_pylist())
