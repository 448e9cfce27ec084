"""Stages as named Ray tasks: independent branches at the same time, worker processes reused.

A task whose worker dies is tried again by Ray; it finds its checkpoint in the work folder. This
module is imported only when a stage must run: starting Ray takes five to ten seconds.
"""

import time
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from pipeline.cluster import how_to_log_in, start_cluster, stop_cluster
from pipeline.config import ClusterConfig
from pipeline.executors.entry import first_cause, run_stage
from pipeline.executors.protocol import Outcome, StageRequest, Status


class RayExecutor:
    """Runs requests on a Ray cluster that it starts or joins.

    retries: of a stage whose worker process died; a stage that raises is not tried again.
    """

    def __init__(self, config: ClusterConfig, retries: int) -> None:
        self._config, self._retries = config, retries
        self._running: dict[Any, StageRequest] = {}
        self.parallel, self.greeting = 1, ""

    def __enter__(self) -> Self:
        cluster = start_cluster(self._config)
        self.parallel, self.greeting = cluster.num_cpus, how_to_log_in(cluster)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        for task in self._running:
            ray.cancel(task, force=True)
        stop_cluster()

    def submit(self, request: StageRequest) -> None:
        """Start a task with the asset's name, on as many CPUs as the stage has threads."""
        options = {
            "name": request.asset,
            "num_cpus": min(request.config.threads, self.parallel),
            "max_retries": self._retries,
        }
        task = ray.remote(run_stage).options(**options).remote(request)
        self._running[task] = request

    def finished(self, timeout_s: float) -> list[Outcome]:
        """Collect the tasks that ended; waits up to `timeout_s` for the first."""
        done, _ = ray.wait(list(self._running), timeout=timeout_s)
        return [_outcome(task, self._running.pop(task)) for task in done]


def _outcome(task: Any, request: StageRequest) -> Outcome:
    try:
        outcome: Outcome = ray.get(task)
    except RayError as error:
        now = time.time()
        cause = first_cause(error).strip().splitlines()[0]
        return Outcome(
            asset=request.asset, status=Status.FAILED, started=now, ended=now, cause=cause
        )
    return outcome
