"""The whole pipeline as a user starts it: on Ray, again, changed, killed and continued.

The runs use `+experiment=tiny`: every stage is real, nothing is learnt. What an uninterrupted run
made is the oracle of every killed one: model hashes are compared.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from tests.metrics_page import documented_curves, undocumented_figures

LONGER = ("align.iterations=30", "align.checkpoint_every=1", "align.validation_every=10")


def command(folder: Path, *overrides: str) -> list[str]:
    own = (f"store={folder / 'store'}", f"run_dir={folder / 'run'}")
    return [sys.executable, "-m", "pipeline", "run", "+experiment=tiny", *own, *overrides]


def run(folder: Path, *overrides: str) -> dict[str, str]:
    """Run to the end; asset -> how it ended."""
    subprocess.run(command(folder, *overrides), check=True, capture_output=True, text=True)
    stages = json.loads((folder / "run" / "run.json").read_text())["stages"]
    return {asset: stage["status"] for asset, stage in stages.items()}


def hashes(folder: Path) -> dict[str, str]:
    """Asset and fingerprint -> model hash."""
    manifests = (folder / "store").glob("*/*/manifest.json")
    found = {path: json.loads(path.read_text())["model_sha256"] for path in manifests}
    return {f"{p.parts[-3]}/{p.parts[-2]}": value for p, value in found.items() if value}


def made(statuses: dict[str, str]) -> list[str]:
    return [asset for asset, status in statuses.items() if status == "done"]


@pytest.fixture(scope="module")
def on_ray(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("on_ray")
    assert len(made(run(folder, *LONGER, "cluster.dashboard=false"))) == 11
    return folder


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_run_on_ray_writes_what_it_promises(on_ray: Path) -> None:
    summary = json.loads((on_ray / "run" / "summary.json").read_text())
    assert 0 <= summary["evaluation"]["policy_win_rate_vs_sft"] <= 1
    assert 0 <= summary["reward_model"]["accuracy_gold"] <= 1
    assert summary["wall_s"] > 0
    assert summary["peak_pss_gb"] > 0
    page = (on_ray / "run" / "report.html").read_text()
    assert "http://" not in page
    assert (on_ray / "run" / "metrics.parquet").stat().st_size > 0


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_everything_a_run_logs_is_defined(on_ray: Path) -> None:
    curves = pq.read_table(on_ray / "run" / "metrics.parquet", columns=["name"])
    assert set(curves["name"].to_pylist()) <= documented_curves()
    assert undocumented_figures(json.loads((on_ray / "run" / "summary.json").read_text())) == []


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_second_run_executes_nothing_and_imports_nothing_heavy(on_ray: Path) -> None:
    before = json.loads((on_ray / "run" / "summary.json").read_text())
    traced = [sys.executable, "-X", "importtime", *command(on_ray, *LONGER)[1:]]
    done = subprocess.run(traced, check=True, capture_output=True, text=True)
    imported = {line.rpartition("|")[2].strip() for line in done.stderr.splitlines()}
    assert not imported & {"ray", "torch", "transformers", "wandb", "datasets", "pandas"}
    after = json.loads((on_ray / "run" / "summary.json").read_text())
    assert after == before | {"cached": True}


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_local_executor_makes_the_same_models(on_ray: Path, tmp_path: Path) -> None:
    run(tmp_path, *LONGER, "executor=local")
    assert hashes(tmp_path) == hashes(on_ray)


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_a_new_kl_coefficient_makes_only_policy_and_evaluation(
    on_ray: Path, tmp_path: Path
) -> None:
    shutil.copytree(on_ray / "store", tmp_path / "store")
    statuses = run(tmp_path, *LONGER, "executor=local", "align.kl_coef=0.5")
    assert made(statuses) == ["policy", "evaluation"]


@pytest.mark.ray
@pytest.mark.timeout(300)
def test_policy_killed_and_continued_ends_bit_identical(on_ray: Path, tmp_path: Path) -> None:
    killed_and_continued(on_ray, tmp_path, "policy", after_steps(11), LONGER)


@pytest.mark.slow
@pytest.mark.timeout(600)
@pytest.mark.parametrize("steps", [1, 21])
def test_policy_killed_early_and_late(on_ray: Path, tmp_path: Path, steps: int) -> None:
    killed_and_continued(on_ray, tmp_path, "policy", after_steps(steps), LONGER)


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_policy_killed_while_it_saves(on_ray: Path, tmp_path: Path) -> None:
    def saving(store: Path) -> bool:
        return after_steps(3)(store) and any(store.glob("work/*/checkpoints/writing.tmp"))

    killed_and_continued(on_ray, tmp_path, "policy", saving, LONGER)


@pytest.mark.slow
@pytest.mark.timeout(900)
@pytest.mark.parametrize(
    ("asset", "steps", "overrides"),
    [
        ("base", 40, ("base.steps=120", "base.checkpoint_every=5")),
        ("sft", 12, ("sft.epochs=12", "sft.checkpoint_every=2")),
        ("reward_model", 10, ("reward_model.epochs=20", "reward_model.checkpoint_every=2")),
        ("policy", 10, ("align=dpo", "align.epochs=4", "align.checkpoint_every=2")),
    ],
)
def test_stage_killed_and_continued(
    tmp_path: Path, asset: str, steps: int, overrides: tuple[str, ...]
) -> None:
    whole, parts = tmp_path / "whole", tmp_path / "parts"
    until = f"to_stage={asset}"
    run(whole, "executor=local", until, *overrides)
    killed_and_continued(whole, parts, asset, after_steps(steps), (until, *overrides))


def killed_and_continued(
    whole: Path, parts: Path, asset: str, due: Callable[[Path], bool], overrides: tuple[str, ...]
) -> None:
    """Make `asset` again in a copy of the store, kill -9 when `due`, continue, compare."""
    shutil.copytree(whole / "store", parts / "store")
    shutil.rmtree(parts / "store" / asset)
    shutil.rmtree(parts / "store" / "evaluation", ignore_errors=True)
    arguments = (*overrides, "executor=local")
    with started(parts, *arguments) as process:
        wait_until(lambda: due(parts / "store"), process)
        process.send_signal(signal.SIGKILL)
        process.wait()
    assert asset not in {name.partition("/")[0] for name in hashes(parts)}
    run(parts, *arguments)
    assert hashes(parts) == hashes(whole)


class started:
    """A run in the background, killed when the block ends."""

    def __init__(self, folder: Path, *overrides: str) -> None:
        self.process = subprocess.Popen(
            command(folder, *overrides), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
            env=os.environ | {"OMP_NUM_THREADS": "1"},
        )  # fmt: skip

    def __enter__(self) -> subprocess.Popen:
        return self.process

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()


def after_steps(steps: int) -> Callable[[Path], bool]:
    """A stage under way has logged this step and has a checkpoint."""

    def due(store: Path) -> bool:
        checkpoints = any(any(folder.iterdir()) for folder in store.glob("work/*/checkpoints"))
        return checkpoints and any(step >= steps for step in logged_steps(store))

    return due


def logged_steps(store: Path) -> Iterator[int]:
    for path in store.glob("work/*/journal/progress.json"):
        yield json.loads(path.read_text())["done"]


def wait_until(due: Callable[[], bool], process: subprocess.Popen, limit_s: float = 120) -> None:
    """Poll as fast as a save lasts."""
    deadline = time.monotonic() + limit_s
    while time.monotonic() < deadline:
        assert process.poll() is None, "the run ended before it was to be killed"
        try:
            if due():
                return
        except FileNotFoundError:  # replaced between the listing and the reading
            continue
        time.sleep(0.0005)
    raise AssertionError("the moment to kill never came")
