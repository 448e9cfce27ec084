"""Worker groups on Ray: calls by rank, deadlines, errors that say who, where and why.

One group for all tests, in the order of the file: the last one kills it.
"""

from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from stages.contracts import GroupShape, WorkerError
from stages.lm.optimisation import NonFiniteError
from tests.stages.lm.worker_parts import build

pytestmark = [pytest.mark.ray, pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.fixture(scope="module")
def group(tmp_path_factory: pytest.TempPathFactory) -> Iterator:
    from pipeline.cluster import start_cluster, stop_cluster
    from pipeline.config import ClusterConfig
    from stages.lm.workers import Groups

    start_cluster(ClusterConfig(num_cpus=2, dashboard=False))
    shape = GroupShape(name="ppo/pair", processes=2, cpus=1.0, start_s=120.0, call_s=60.0)
    groups = Groups([shape], attempt=0, folder=tmp_path_factory.mktemp("logs"))
    made = groups.handles["ppo/pair"]
    made.build(build, 0.5)
    yield made
    groups.end()
    stop_cluster()


def test_ranks_work_together_and_answer_in_order(group) -> None:
    """Mutation: results in the order in which they came."""
    import ray

    assert group.call("part", "total", [(1.0,), (2.0,)]) == [3.5, 3.5]
    assert group.call("part", "rank", [(), ()]) == [0, 1]
    assert group.call_for_first("part", "total", 4.0) == 8.5
    assert group.names == ["ppo/pair[0]", "ppo/pair[1]"]
    assert ray.get_actor("ppo/pair[1]") is not None


def test_parts_are_built_anew(group) -> None:
    group.build(build, 0.0)
    assert group.call("part", "total", [(1.0,), (2.0,)]) == [3.0, 3.0]


def test_a_late_rank_is_named_with_its_phase_and_stack(group) -> None:
    """Mutation: the stack asked of the thread that is busy."""
    hasty = type(group)(replace(group.shape, call_s=2.0), group.names, group.actors, group.logs)
    with pytest.raises(WorkerError) as caught:
        hasty.call("part", "sleeps", [(0.0,), (6.0,)])
    assert "ppo/pair[1]: no answer to part.sleeps in 2 s" in str(caught.value)
    assert "time.sleep(seconds)" in str(caught.value)
    assert "pair[0]" not in str(caught.value)
    assert group.call("part", "rank", [(), ()]) == [0, 1]  # awake again


def test_an_error_that_says_it_all_comes_as_it_is(group) -> None:
    with pytest.raises(NonFiniteError, match="the loss is nan"):
        group.call("part", "diverges", [(), ()])


def test_any_other_error_names_the_rank(group) -> None:
    with pytest.raises(WorkerError, match=r"ppo/pair\[[01]\] failed in part.total: TypeError"):
        group.call("part", "total", [("one",), ("two",)])


def test_a_dead_rank_is_named_with_what_is_known_of_it(group, tmp_path: Path) -> None:
    """Also when the survivor's lost connection shows first."""
    with pytest.raises(WorkerError) as caught:
        group.call("part", "dies_or_waits", [(False,), (True,)])
    assert "ppo/pair[1] died in part.dies_or_waits" in str(caught.value)
    assert "Worker unexpectedly exits" in str(caught.value)
    assert "GiB free on the node" in str(caught.value)
    assert "the last words" in str(caught.value)
