"""What an executor is asked, what it answers, and what the driver can see of it while it works.

`pipeline.scheduler.Run` decides what is ready; an executor only runs it. `local` runs a stage in
this process, `ray` as a Ray task; both call the same entry, `pipeline.executors.entry.run_stage`.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path
from types import TracebackType
from typing import Protocol, Self

from pipeline.fingerprint import Parts
from stages.contracts import StageConfig, UserError, WorkerGroup


class Status(StrEnum):
    """Where an asset stands in this run."""

    WAITING = "waiting"  # for its parents, for a free CPU, or for another run that makes it
    RUNNING = "running"
    CACHED = "cached"  # it was in the store before this run
    GIVEN = "given"  # the user brought it
    DONE = "done"  # made by this run
    FAILED = "failed"
    INTERRUPTED = "interrupted"  # asked to stop; the next run continues from its checkpoint

    @property
    def is_final(self) -> bool:
        """Nothing more happens to the asset in this run."""
        return self not in (Status.WAITING, Status.RUNNING)


@dataclass(frozen=True, kw_only=True)
class StageState:
    """A snapshot of one asset for the progress display and the trackers.

    folder: the artifact, complete once the status is cached, given or done. journal, log: where
    they lie NOW: they go into the artifact when it is published, with the same content, so a
    reader's offset stays valid. started, ended: seconds since 1970, None for a stage that this run
    did not execute. note: why a stage runs or waits. error: set when it failed.
    """

    asset: str
    status: Status
    fingerprint: str
    folder: Path
    journal: Path
    log: Path
    started: float | None = None
    ended: float | None = None
    note: str = ""
    error: str = ""


@dataclass(frozen=True, kw_only=True)
class StageRequest:
    """Everything a process needs to make one asset; it travels to Ray's workers.

    function: `module:function`. parents: keyword of the stage -> artifact folder. parts: what the
    fingerprint was computed from. run: the run's name, shown to a run that waits for this one.
    token: of this execution. stop_file: it appears when stages should checkpoint and end.
    replace: make the asset although it is in the store. gpus: of the process. workers: the groups
    its config asks for, of the driver.
    """

    asset: str
    function: str
    config: StageConfig
    parents: Mapping[str, Path]
    fingerprint: str
    parts: Parts
    store: Path
    run: str
    token: str
    stop_file: Path
    replace: bool = False
    capture_output: bool = True
    gpus: float = 0.0
    workers: Mapping[str, WorkerGroup] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Outcome:
    """How a request ended: done, failed or interrupted.

    cause: the exception's first cause. lost_workers: it failed because a worker group did.
    """

    asset: str
    status: Status
    started: float
    ended: float
    cause: str = ""
    lost_workers: bool = False
    user_error: UserError | None = field(default=None)


class Executor(Protocol):
    """Runs requests, at most `parallel` at once. Entering starts what it needs, leaving ends it."""

    parallel: int
    greeting: str  # what the user should know of it once it was entered; may be empty

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...

    def submit(self, request: StageRequest) -> None:
        """Take a request; does not wait for its end."""

    def finished(self, timeout_s: float) -> list[Outcome]:
        """The requests that ended since the last call; waits up to `timeout_s` for the first."""
