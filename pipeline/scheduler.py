"""Carries out a plan on an executor: starts what is ready, watches, stops cleanly.

A failed stage ends the run once its siblings in flight are done; nothing new is started after it.
SIGTERM, ctrl-C or the time limit create the stop file: stages then write a checkpoint and end. A
second signal ends the run at once.
"""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from types import FrameType
from uuid import uuid4

from pipeline.errors import StageFailedError, raise_faults
from pipeline.executors.protocol import Executor, Outcome, StageRequest, StageState, Status
from pipeline.locks import is_waiting, who_holds
from pipeline.manifest import Artifact, read_artifact
from pipeline.planning import Action, Plan, PlannedStage
from stages.contracts import InterruptedRunError, UserError

POLL_S = 0.2
STOP_SIGNALS = (signal.SIGTERM, signal.SIGINT)


class Run:
    """One execution of a plan. `states` may be called from another thread at any time.

    name: shown to another run that waits for this one. capture_output: False leaves what stages
    print on the terminal (for a debugger in the local executor).
    """

    def __init__(self, plan: Plan, name: str, *, capture_output: bool = True) -> None:
        self.plan, self.name = plan, name
        self._capture_output = capture_output
        self._token = uuid4().hex[:12]
        self._stop_file = plan.store.root / "work" / f"{self._token}.stop"
        self._submitted: set[str] = set()
        self._begun: dict[str, float] = {}
        self._outcomes: dict[str, Outcome] = {}

    def execute(self, executor: Executor, time_limit_s: float | None = None) -> None:
        """Make what the plan says, on an executor that was entered.

        Raises:
            StageFailedError: the first cause and the log file.
            UserError: a stage found a user's mistake.
            InterruptedRunError: asked to stop; the same command continues.
        """
        self._stop_file.parent.mkdir(parents=True, exist_ok=True)
        with self._stopping_on_signals(), self._stopping_after(time_limit_s):
            try:
                self._loop(executor)
            finally:
                self._stop_file.unlink(missing_ok=True)
        self._raise_faults()

    def stop(self) -> None:
        """Ask every stage to write a checkpoint and end."""
        self._stop_file.touch()

    def states(self) -> list[StageState]:
        """Where every asset stands now, parents first."""
        return [self._state(asset, planned) for asset, planned in self.plan.stages.items()]

    def artifacts(self) -> dict[str, Artifact]:
        """Every asset that is there by now."""
        return {
            asset: read_artifact(planned.folder)
            for asset, planned in self.plan.stages.items()
            if self._is_there(asset)
        }

    def _loop(self, executor: Executor) -> None:
        while True:
            for asset in self._ready():
                if len(self._in_flight()) < executor.parallel:
                    self._submitted.add(asset)
                    executor.submit(self._request(asset))
            if not self._in_flight():
                return
            for outcome in executor.finished(POLL_S):
                self._outcomes[outcome.asset] = outcome

    def _ready(self) -> list[str]:
        """What could start now: nothing once a stage failed or the run should stop."""
        ended = all(outcome.status is Status.DONE for outcome in self._outcomes.values())
        if not ended or self._stop_file.exists():
            return []
        return [
            asset
            for asset in self.plan.to_run
            if asset not in self._submitted
            and all(map(self._is_there, self.plan.stages[asset].stage.reads.values()))
        ]

    def _in_flight(self) -> set[str]:
        return self._submitted - self._outcomes.keys()

    def _is_there(self, asset: str) -> bool:
        if self.plan.stages[asset].action is not Action.RUN:
            return True
        return asset in self._outcomes and self._outcomes[asset].status is Status.DONE

    def _request(self, asset: str) -> StageRequest:
        planned = self.plan.stages[asset]
        assert planned.parts is not None
        return StageRequest(
            asset=asset,
            function=planned.stage.function,
            config=planned.stage.config,
            parents=self.plan.inputs(asset),
            fingerprint=planned.fingerprint,
            parts=planned.parts,
            store=self.plan.store.root,
            run=self.name,
            token=self._token,
            stop_file=self._stop_file,
            replace=planned.why == "forced",
            capture_output=self._capture_output,
        )

    def _state(self, asset: str, planned: PlannedStage) -> StageState:
        outcome = self._outcomes.get(asset)
        work, there = self.plan.store.work(planned.fingerprint), self._is_there(asset)
        status, note = self._progress(asset, planned)
        return StageState(
            asset=asset,
            status=status,
            note=note,
            fingerprint=planned.fingerprint,
            folder=planned.folder,
            journal=planned.folder / "journal" if there else work.journal,
            log=planned.folder / "log.txt" if there else work.log,
            started=outcome.started if outcome else self._begun.get(asset),
            ended=outcome.ended if outcome else None,
            error=outcome.cause if outcome and outcome.status is Status.FAILED else "",
        )

    def _progress(self, asset: str, planned: PlannedStage) -> tuple[Status, str]:
        """Status and note; who holds the lock tells whether a submitted stage has begun."""
        if planned.action is not Action.RUN:
            return Status(planned.action.value), planned.why
        if asset in self._outcomes:
            return self._outcomes[asset].status, self._outcomes[asset].cause or planned.why
        if asset not in self._submitted:
            return Status.WAITING, planned.why
        path = self.plan.store.lock_path(planned.fingerprint)
        if is_waiting(path, self._token):
            return Status.WAITING, f"waits for {who_holds(path) or 'another run'}"
        holder = who_holds(path)
        if holder and holder.token == self._token:
            self._begun.setdefault(asset, holder.since)
        return Status.RUNNING if asset in self._begun else Status.WAITING, planned.why

    def _raise_faults(self) -> None:
        failed = [o for o in self._outcomes.values() if o.status is Status.FAILED]
        raise_faults([self._fault(outcome) for outcome in failed])
        missing = [asset for asset in self.plan.to_run if not self._is_there(asset)]
        if missing:
            raise InterruptedRunError(
                f"stopped before {', '.join(missing)}; the same command continues"
            )

    def _fault(self, outcome: Outcome) -> UserError:
        if (fault := outcome.user_error) is not None:
            return UserError(f"{outcome.asset}: {fault.what}", got=fault.got, do=fault.do)
        log = self.plan.store.work(self.plan.stages[outcome.asset].fingerprint).log
        return StageFailedError(
            f"the stage {outcome.asset} failed",
            got=outcome.cause,
            do=f"read {log}; the same command continues from what is done",
        )

    @contextmanager
    def _stopping_on_signals(self) -> Iterator[None]:
        """The first signal asks the stages to stop, the second one ends this process's wait."""
        if threading.current_thread() is not threading.main_thread():
            yield
            return

        def on_signal(number: int, frame: FrameType | None) -> None:
            del number, frame
            if self._stop_file.exists():
                raise KeyboardInterrupt
            self.stop()

        before = {number: signal.signal(number, on_signal) for number in STOP_SIGNALS}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)

    @contextmanager
    def _stopping_after(self, limit_s: float | None) -> Iterator[None]:
        if limit_s is None:
            yield
            return
        timer = threading.Timer(limit_s, self.stop)
        timer.daemon = True
        timer.start()
        try:
            yield
        finally:
            timer.cancel()
