"""Running a plan on Ray: branches at once, a killed worker's stage goes on from its checkpoint.

One cluster for all tests: starting it is what takes the time.
"""

from collections.abc import Iterator
from pathlib import Path

import pytest

from pipeline.config import ClusterConfig
from pipeline.executors.protocol import Executor, Status
from pipeline.scheduler import Run, StageFailedError
from stages.contracts import InterruptedRunError, UserError
from tests.pipeline.toys import plan_of, toy_graph

pytestmark = [pytest.mark.ray, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def executor(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Executor]:
    from pipeline.executors.ray import RayExecutor

    meeting = tmp_path_factory.mktemp("meeting")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("TOY_MEETING", str(meeting))  # workers inherit the environment
        with RayExecutor(ClusterConfig(num_cpus=2, dashboard=False), retries=1) as started:
            yield started


def test_independent_branches_run_at_the_same_time(tmp_path: Path, executor: Executor) -> None:
    """Each of the two stages ends only when it has seen the other one at work."""
    graph = toy_graph(makes_left="meets", makes_right="meets")
    run = Run(plan_of(tmp_path, graph), name="toy")
    run.execute(executor)
    assert run.artifacts()["evaluation"].manifest.metrics == {"value": 3.0}


def test_a_killed_worker_is_replaced_and_its_stage_goes_on(
    tmp_path: Path, executor: Executor
) -> None:
    run = Run(plan_of(tmp_path, toy_graph(makes_left="dies_once")), name="toy")
    run.execute(executor)
    left = run.artifacts()["left"]
    assert {path.name for path in left.folder.iterdir()} == {
        *("manifest.json", "number.txt", "journal", "log.txt")
    }


def test_a_stop_reaches_the_workers(tmp_path: Path, executor: Executor) -> None:
    plan = plan_of(tmp_path, toy_graph(makes_left="stops_once"))
    run = Run(plan, name="toy")
    with pytest.raises(InterruptedRunError):
        run.execute(executor, time_limit_s=0.5)
    assert run.states()[0].status is Status.INTERRUPTED
    again = Run(plan, name="toy")
    again.execute(executor)
    assert again.states()[0].status is Status.DONE


def test_more_gpus_than_the_cluster_has_are_refused_before_ray_waits_for_them(
    tmp_path: Path, executor: Executor, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(executor, "_gpus", 1.0)
    run = Run(plan_of(tmp_path, toy_graph()), name="toy")
    with pytest.raises(UserError) as caught:
        run.execute(executor)
    assert "executor.gpus=1, 0 there" in str(caught.value)


def test_a_failure_crosses_processes_with_its_first_cause(
    tmp_path: Path, executor: Executor
) -> None:
    run = Run(plan_of(tmp_path, toy_graph(makes_left="fails")), name="toy")
    with pytest.raises(StageFailedError, match="KeyError: 'the first cause'"):
        run.execute(executor)
