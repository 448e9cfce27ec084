"""A Ray cluster of several nodes on this machine, one of which can be lost whole."""

from contextlib import suppress
from typing import Any

from tests.faults.victims import descendants, kill


class Nodes:
    """A head without CPUs and `number` nodes that have room for a run each; none if it is 0."""

    def __init__(self, number: int) -> None:
        self._cluster: Any = None
        self._nodes: list[Any] = []
        if number:
            from ray.cluster_utils import Cluster

            from pipeline.cluster import set_environment

            set_environment()
            self._cluster = Cluster(initialize_head=True, head_node_args={"num_cpus": 0})
            self._nodes = [self._cluster.add_node(num_cpus=2) for _ in range(number)]
            self._cluster.wait_for_nodes()

    @property
    def overrides(self) -> tuple[str, ...]:
        """How a run joins."""
        return (f"cluster.address='{self._cluster.address}'",) if self._cluster else ()

    def raylets(self) -> list[int]:
        """One process a node, above its workers."""
        every = [self._cluster.head_node, *self._nodes] if self._cluster else []
        return [_raylet(node) for node in every]

    def kill_the_one_with(self, pid: int) -> None:
        """The node that this process runs on, with all its processes."""
        for node in self._nodes:
            workers = descendants(_raylet(node))
            if pid in workers:
                for process in (_raylet(node), *workers):
                    kill(process)
                with suppress(Exception):  # it is dead: this only clears what Ray remembers
                    self._cluster.remove_node(node, allow_graceful=False)
                self._nodes.remove(node)
                return
        raise AssertionError(f"process {pid} runs on none of the nodes that may be lost")

    def end(self) -> None:
        """Shut all nodes down."""
        if self._cluster:
            self._cluster.shutdown()


def _raylet(node: Any) -> int:
    (info,) = node.all_processes["raylet"]
    pid: int = info.process.pid
    return pid
