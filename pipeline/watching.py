"""The driver's eyes: a thread that shows a run's states, records them and feeds the trackers."""

import threading
from collections.abc import Mapping
from pathlib import Path
from types import TracebackType
from typing import Self

from pipeline.executors.protocol import StageState, Status
from pipeline.manifest import read_artifact
from pipeline.measuring import Meter
from pipeline.progress import Progress
from pipeline.scheduler import Run
from pipeline.summary import RunRecord, StageRecord, write_run
from pipeline.tracking.interface import LoggedArtifact
from pipeline.tracking.tracking import Tracking

LOOK_EVERY_S = 0.3
THERE = (Status.CACHED, Status.GIVEN, Status.DONE)


class Watcher:
    """Looks at a run three times a second while the block runs, and once more at its end.

    record: kept up to date, written to the run's folder at every change. tracking: None where no
    stage is executed.
    """

    def __init__(
        self,
        run: Run,
        record: RunRecord,
        folder: Path,
        meter: Meter,
        progress: Progress,
        tracking: Tracking | None,
    ) -> None:
        self._run, self._record, self._folder, self._meter = run, record, folder, meter
        self._progress, self._tracking = progress, tracking
        self._stop = threading.Event()
        self._thread = threading.Thread(target=self._watch, name="watcher", daemon=True)
        self._error: Exception | None = None

    def __enter__(self) -> Self:
        self.look()
        self._progress.__enter__()
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()
        self.look()
        self._progress.__exit__(kind, error, trace)
        if self._error and error is None:
            raise self._error

    def look(self) -> None:
        """Show and record how things stand, hand on what the stages logged."""
        states = {state.asset: state for state in self._run.states()}
        self._progress.update(states)
        self._write(states)
        for asset, state in states.items() if self._tracking else ():
            self._follow(asset, state)

    def _watch(self) -> None:
        try:
            while not self._stop.wait(LOOK_EVERY_S):
                self.look()
        except Exception as error:  # noqa: BLE001  # told when the run is over, which goes on
            self._error = error

    def _write(self, states: Mapping[str, StageState]) -> None:
        stages = {
            asset: StageRecord.of(state, self._run.plan.stages[asset].stage.reads)
            for asset, state in states.items()
        }
        if stages != self._record.stages:
            self._record.stages = stages
            measure(self._record, self._meter)
            write_run(self._folder, self._record)

    def _follow(self, asset: str, state: StageState) -> None:
        assert self._tracking is not None
        self._tracking.follow(asset, state.journal)
        if state.status not in THERE:
            return
        manifest = read_artifact(state.folder).manifest
        parents = {parent.asset: parent.fingerprint for parent in manifest.parents.values()}
        self._tracking.publish(
            LoggedArtifact(
                asset=asset,
                fingerprint=state.fingerprint,
                folder=state.folder,
                parents=parents,
                metrics=manifest.metrics,
                made_here=state.status is Status.DONE,
            )
        )


def measure(record: RunRecord, meter: Meter) -> None:
    """Write into the record what the run took so far."""
    record.wall_s, record.cpu_s = meter.wall_s, meter.cpu_s
    record.peak_pss_gb = meter.peak_pss_gb
