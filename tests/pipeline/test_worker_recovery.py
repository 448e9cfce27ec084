"""A stage on worker groups that loses one of its processes is tried again with new groups."""

import os
import signal
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig
from pipeline.executors.protocol import Executor, Status
from pipeline.scheduler import Run, StageFailedError
from pipeline.workflow import Stage
from stages.contracts import Context, GroupShape, Report
from tests.pipeline.toys import ToyConfig, plan_of, toy_graph
from tests.stages.lm.worker_parts import build

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(600)]


@dataclass(kw_only=True)
class PairConfig(ToyConfig):
    """lost: what dies in the first `losses` tries, a rank or the stage's own process."""

    lost: str = "rank"
    losses: int = 1

    def worker_groups(self) -> list[GroupShape]:
        return [GroupShape(name="pair", processes=2, cpus=0.5, start_s=120.0, call_s=60.0)]


def drives(config: PairConfig, *, out: Path, context: Context) -> Report:
    """A sum over two ranks; a file a try in the checkpoints."""
    tries = len(list(context.checkpoints.iterdir()))
    (context.checkpoints / f"try_{tries}").touch()
    group = context.workers["pair"]
    group.build(build, 0.0)
    if tries < config.losses and config.lost == "rank":
        group.call("part", "dies_or_waits", [(False,), (True,)])
    if tries < config.losses:
        os.kill(os.getpid(), signal.SIGKILL)
    value, _ = group.call("part", "total", [(1.0,), (2.0,)])
    (out / "number.txt").write_text(str(value))
    return Report(metrics={"value": value, "tries": tries + 1.0})


@pytest.fixture(scope="module")
def executor() -> Iterator[Executor]:
    from pipeline.executors.ray import RayExecutor

    with RayExecutor(ClusterConfig(num_cpus=2, dashboard=False), retries=1) as started:
        yield started


def run_of(folder: Path, config: PairConfig) -> Run:
    graph = toy_graph()
    graph["left"] = Stage(function=f"{__name__}:drives", config=config)
    return Run(plan_of(folder, graph), name="toy")


@pytest.mark.parametrize("lost", ["rank", "stage"])
def test_a_lost_process_costs_a_try(tmp_path: Path, executor: Executor, lost: str) -> None:
    """The next try finds its checkpoints and a group that works."""
    run = run_of(tmp_path, PairConfig(lost=lost))
    run.execute(executor)
    assert run.artifacts()["left"].manifest.metrics == {"value": 3.0, "tries": 2.0}


def test_tries_are_bounded_and_the_last_error_is_told(tmp_path: Path, executor: Executor) -> None:
    run = run_of(tmp_path, PairConfig(losses=5))
    with pytest.raises(StageFailedError, match=r"pair\[1\] try 2 died in part.dies_or_waits"):
        run.execute(executor)


def test_too_large_a_group_is_refused_before_work(tmp_path: Path, executor: Executor) -> None:
    @dataclass(kw_only=True)
    class LargeConfig(PairConfig):
        def worker_groups(self) -> list[GroupShape]:
            return [GroupShape(name="pair", processes=64, cpus=1.0)]

    run = run_of(tmp_path, LargeConfig())
    with pytest.raises(Exception, match="too little for the worker groups"):
        run.execute(executor)
    assert run.states()[0].status is Status.FAILED
