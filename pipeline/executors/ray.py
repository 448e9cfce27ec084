"""Stages as named Ray tasks: independent branches at the same time, worker processes reused.

A task whose worker dies is tried again by Ray; it finds its checkpoint in the work folder. A stage
that drives worker groups is tried again here, with new groups, when its process or one of theirs
is lost. This module is imported only when a stage must run: starting Ray takes five to ten seconds.
"""

import time
from dataclasses import dataclass, replace
from types import TracebackType
from typing import Any, Self

import ray
from ray.exceptions import RayError

from pipeline.artifacts import Store
from pipeline.cluster import how_to_log_in, no_gpu, start_cluster, stop_cluster, too_little
from pipeline.config import ClusterConfig
from pipeline.executors.entry import first_cause, run_stage
from pipeline.executors.protocol import Outcome, StageRequest, Status
from stages.lm.workers import Groups

LOGS = "workers"  # beside a stage's checkpoints: what its ranks print


@dataclass(kw_only=True)
class _Try:
    """A request under way. attempt: how many worker groups it lost before."""

    request: StageRequest
    groups: Groups | None = None
    attempt: int = 0


class RayExecutor:
    """Runs requests on a Ray cluster that it starts or joins.

    retries: of a stage whose worker process died; a stage that raises is not tried again. gpus: of
    the process of a stage that computes there, or starts vLLM there.
    """

    def __init__(self, config: ClusterConfig, retries: int, gpus: float = 0.0) -> None:
        self._config, self._retries, self._gpus = config, retries, gpus
        self._running: dict[Any, _Try] = {}
        self._refused: list[Outcome] = []
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
        for task, tried in self._running.items():
            ray.cancel(task, force=True)
            _end(tried)
        stop_cluster()

    def submit(self, request: StageRequest) -> None:
        """Start a task with the asset's name, on as many CPUs as the stage has threads."""
        shapes = request.config.worker_groups()
        there = {kind: ray.cluster_resources().get(kind, 0.0) for kind in ("CPU", "GPU")}
        if fault := too_little(shapes, there) or no_gpu(self._gpus_of(request), there["GPU"]):
            self._refused.append(_failed(request, fault.what, user_error=fault))
        else:
            self._start(_Try(request=request))

    def _start(self, tried: _Try) -> None:
        """With worker groups if it wants any: then it only drives, and asks for no CPU."""
        request, shapes = tried.request, tried.request.config.worker_groups()
        options: dict[str, Any] = {"name": request.asset, "max_retries": self._retries}
        options["num_cpus"] = min(request.config.threads, self.parallel)
        options["num_gpus"] = self._gpus_of(request)
        request = replace(request, gpus=0.0 if shapes else options["num_gpus"])
        if shapes:
            folder = Store(request.store).work(request.fingerprint).folder / LOGS
            tried.groups = Groups(shapes, tried.attempt, folder)
            request = replace(request, workers=tried.groups.handles)
            options |= {"num_cpus": 0, "max_retries": 0}
        self._running[ray.remote(run_stage).options(**options).remote(request)] = tried

    def _gpus_of(self, request: StageRequest) -> float:
        return self._gpus if request.config.computes() else 0.0

    def finished(self, timeout_s: float) -> list[Outcome]:
        """Collect the tasks that ended; waits up to `timeout_s` for the first."""
        outcomes, self._refused = self._refused, []
        done, _ = ray.wait(list(self._running), timeout=timeout_s) if self._running else ([], [])
        for task in done:
            tried = self._running.pop(task)
            outcome = self._outcome(task, tried)
            _end(tried)
            if outcome.lost_workers and tried.attempt < self._retries:
                _tell(tried, outcome.cause)
                self._start(_Try(request=tried.request, attempt=tried.attempt + 1))
            else:
                outcomes.append(outcome)
        return outcomes

    def _outcome(self, task: Any, tried: _Try) -> Outcome:
        try:
            outcome: Outcome = ray.get(task)
        except RayError as error:
            cause = first_cause(error).strip().splitlines()[0]
            return _failed(tried.request, cause, lost_workers=tried.groups is not None)
        return outcome


def _tell(tried: _Try, cause: str) -> None:
    """In the stage's log, for whoever wonders where the time went."""
    with Store(tried.request.store).work(tried.request.fingerprint).log.open("a") as log:
        log.write(f"try {tried.attempt + 1} lost its processes, the next one begins: {cause}\n")


def _failed(request: StageRequest, cause: str, **more: Any) -> Outcome:
    now = time.time()
    return Outcome(
        asset=request.asset, status=Status.FAILED, started=now, ended=now, cause=cause, **more
    )


def _end(tried: _Try) -> None:
    if tried.groups is not None:
        tried.groups.end()
