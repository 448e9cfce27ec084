"""The PPO stage on Ray's worker groups: as in one process, and again after a rank was killed."""

import os
import signal
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from stages.contracts import Context, UserError, WorkerError
from stages.lm.engines.config import Correction, RolloutConfig
from stages.lm.loading import load_causal_lm
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.placement import PlacementConfig
from stages.step3_policy.ppo.stage import run
from tests.stages.step3_policy.ppo.small_ppo import small_config
from tests.stages.step3_policy.ppo.trajectories import placed

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(900)]


@pytest.fixture(scope="module", autouse=True)
def cluster() -> Iterator[None]:
    from pipeline.cluster import start_cluster, stop_cluster
    from pipeline.config import ClusterConfig

    start_cluster(ClusterConfig(num_cpus=8, dashboard=False))
    yield
    stop_cluster()


@pytest.fixture
def stage_on(ppo_inputs: dict[str, Path], tmp_path: Path) -> Callable[..., dict[str, Tensor]]:
    """stage_on(placement, folder, attempt, meanwhile): run the stage; the policy it publishes."""
    from stages.lm.workers import Groups

    def stage(
        placement: PlacementConfig,
        folder: str,
        attempt: int = 0,
        meanwhile: Callable[[Any, Path], None] | None = None,
        **changes: Any,
    ) -> dict[str, Tensor]:
        config = config_for(placement, **changes)
        shapes, where = config.worker_groups(), tmp_path / folder
        groups = Groups(shapes, attempt, where / "logs")
        context = Context.at(where)
        context.workers = groups.handles
        if meanwhile is not None:
            watcher = threading.Thread(target=meanwhile, args=[groups.handles, where], daemon=True)
            watcher.start()
        try:
            run(config, **ppo_inputs, out=where / "out", context=context)
        finally:
            groups.end()
        return dict(load_causal_lm(where / "out" / "model").named_parameters())

    return stage


def config_for(placement: PlacementConfig, **changes: Any) -> PpoConfig:
    values = {"iterations": 6, "select": Select.last, "placement": placement, "policy_lr": 1e-3}
    return small_config(**(values | changes))


def kill_after(step: int, rank: int) -> Callable[[Any, Path], None]:
    """SIGKILL for a rank of the policy's group once that checkpoint is there."""

    def watch(groups: Any, folder: Path) -> None:
        import ray

        (group,) = groups.values()
        pid = ray.get(group.actors[rank].__ray_call__.remote(lambda _: os.getpid()))
        while not (folder / "checkpoints" / f"step_{step:09d}").exists():
            time.sleep(0.01)
        os.kill(pid, signal.SIGKILL)

    return watch


def close(found: dict[str, Tensor], expected: dict[str, Tensor]) -> bool:
    return all(float((found[n] - expected[n]).detach().abs().max()) < 1e-5 for n in expected)


def test_ray_groups_end_where_one_process_does(
    stage_on: Callable[..., dict[str, Tensor]],
) -> None:
    alone = stage_on(PlacementConfig(), "alone")
    assert close(stage_on(placed(2, "ddp", split=False), "colocated"), alone)
    split = placed(2, "fsdp2", split=True)
    split.cpus = 0.5
    assert close(stage_on(split, "split"), alone)


def test_a_killed_rank_is_told_and_the_next_try_ends_the_same(
    stage_on: Callable[..., dict[str, Tensor]],
) -> None:
    """Bit for bit: the same sums over the same two ranks."""
    placement = placed(2, "ddp", split=False)
    whole = stage_on(placement, "whole")
    with pytest.raises(WorkerError, match=r"ppo/all\[1\] died in "):
        stage_on(placement, "killed", 0, kill_after(2, rank=1))
    found = stage_on(placement, "killed", 1)
    for name, expected in whole.items():
        assert torch.equal(found[name], expected)


def test_a_loss_that_is_not_finite_stops_the_run_and_keeps_the_batch(
    stage_on: Callable[..., dict[str, Tensor]], tmp_path: Path
) -> None:
    """Nobody tries again: the same batch would do the same."""
    with pytest.raises(UserError, match="PPO stopped in iteration"):
        stage_on(placed(2, "ddp", split=False), "nan", policy_lr=1e30)
    assert len(list((tmp_path / "nan" / "checkpoints").glob("broken_batch*.pt"))) == 1


def test_an_engine_of_another_group_samples_while_the_policy_learns(
    stage_on: Callable[..., dict[str, Tensor]],
) -> None:
    """One update ahead, the same as in one process. Mutation: the weights sent after sampling."""
    ahead = RolloutConfig(async_steps=1, correction=Correction.truncate)
    alone = stage_on(PlacementConfig(), "alone", rollout=ahead)
    split = placed(2, "ddp", split=True)
    split.cpus = 0.5
    assert close(stage_on(split, "split", rollout=ahead), alone)
