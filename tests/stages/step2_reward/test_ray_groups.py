"""The reward-model stage on Ray's worker groups: as in one process, and after a rank was killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import Context, WorkerError
from tests.stages.step2_reward.trajectories import (
    PIECES,
    Trajectory,
    config_of,
    distance,
    train,
    write_comparisons,
)

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from pipeline.cluster import start_cluster, stop_cluster
    from pipeline.config import ClusterConfig

    start_cluster(ClusterConfig(num_cpus=4, dashboard=False))
    yield
    stop_cluster()


@pytest.fixture
def stage_on(world: Path, tmp_path: Path) -> Callable[..., Trajectory]:
    """stage_on(kind, folder, attempt, meanwhile): the stage on two ranks of that backend."""
    from stages.lm.workers import Groups

    inputs = {
        "sft": world / "sft",
        "comparisons": write_comparisons(world, tmp_path / "comparisons"),
        "demonstrations": world / "demonstrations",
    }

    def stage(
        kind: str,
        folder: str,
        attempt: int = 0,
        meanwhile: Callable[[Any, Path], None] | None = None,
    ) -> Trajectory:
        if kind == "none":
            return train(config_of(1, "none"), inputs, tmp_path / folder)
        config = config_of(2, kind, microbatch_tokens=PIECES)
        groups = Groups(config.worker_groups(), attempt, tmp_path / folder / "logs")
        context = Context.at(tmp_path / folder)
        context.workers = groups.handles
        if meanwhile is not None:
            arguments = [groups.handles, tmp_path / folder]
            threading.Thread(target=meanwhile, args=arguments, daemon=True).start()
        try:
            return train(config, inputs, tmp_path / folder, context=context)
        finally:
            groups.end()

    return stage


def kill_second_rank(groups: Any, folder: Path) -> None:
    """SIGKILL once the checkpoint of step 3 is there."""
    import ray

    (group,) = groups.values()
    pid = ray.get(group.actors[1].__ray_call__.remote(lambda _: os.getpid()))
    while not list((folder / "checkpoints").glob("step_*")):
        time.sleep(0.002)
    os.kill(pid, signal.SIGKILL)


def test_a_killed_rank_is_told_and_the_next_try_ends_the_same(
    stage_on: Callable[..., Trajectory],
) -> None:
    """As in one process; after the kill bit for bit: the same sums over the same two ranks."""
    whole = stage_on("ddp", "whole")
    assert distance(whole, stage_on("none", "alone")) < 1e-6
    with pytest.raises(WorkerError, match=r"reward_model/0\[1\] died in "):
        stage_on("ddp", "killed", 0, kill_second_rank)
    found = stage_on("ddp", "killed", 1)
    assert distance(found, whole) == 0
    assert found.curves == whole.curves
