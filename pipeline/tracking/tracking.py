"""The one thing the driver talks to: follows journals and hands each record once to every tracker.

    tracking = open_tracking(config, run=..., folder=..., resolved=..., fingerprints=...)
    tracking.follow("sft", journal)      # as often as you like, while the stage runs and once after
    tracking.publish(artifact)           # when it is there, made now or found in the store
    tracking.close(summary)

Open it only when a stage will execute: opening imports the trackers.
"""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from pipeline.tracking.config import TrackingConfig, WandbMode
from pipeline.tracking.interface import LoggedArtifact, LoggedStep, LoggedTable, Tracker
from pipeline.tracking.journals import JournalTail
from pipeline.tracking.state import TrackingState, open_state


class Tracking:
    """Hands what is new in the stages' journals to the trackers."""

    def __init__(self, folder: Path, trackers: Sequence[Tracker], state: TrackingState) -> None:
        self._folder, self._trackers, self._state = folder, trackers, state
        self._tails: dict[str, JournalTail] = {}

    def follow(self, stage: str, journal: Path) -> None:
        """Hand on what the stage has logged since the last call."""
        metrics, tables = self._tails.setdefault(stage, JournalTail()).read(journal)
        steps = [step for record in metrics if (step := self._step(stage, record)).values]
        shown = [
            self._table(stage, record)
            for record in tables
            if self._state.is_new_table(stage, record)
        ]
        if not steps and not shown:
            return
        self._state.save(self._folder)
        for tracker in self._trackers:
            for step in steps:
                tracker.log(step)
            for table in shown:
                tracker.table(table)

    def publish(self, artifact: LoggedArtifact) -> None:
        """Name an artifact with its lineage, once a run."""
        if artifact.fingerprint in self._state.artifacts:
            return
        self._state.artifacts.append(artifact.fingerprint)
        self._state.save(self._folder)
        for tracker in self._trackers:
            tracker.artifact(artifact)

    def close(self, summary: Mapping[str, Any]) -> None:
        """End all trackers."""
        for tracker in self._trackers:
            tracker.close(summary)

    def _step(self, stage: str, record: dict[str, Any]) -> LoggedStep:
        values = self._state.new_values(stage, record)
        index = self._state.next_index() if values else self._state.index
        return LoggedStep(
            stage=stage, step=record["step"], time=record["time"], index=index, values=values
        )

    def _table(self, stage: str, record: dict[str, Any]) -> LoggedTable:
        return LoggedTable(
            stage=stage,
            step=record["step"],
            index=self._state.next_index(),
            name=record["name"],
            rows=record["rows"],
        )


def open_tracking(
    config: TrackingConfig,
    *,
    run: str,
    folder: Path,
    resolved: Mapping[str, Any],
    fingerprints: Mapping[str, str],
) -> Tracking:
    """Open the trackers the config names.

    Args:
        run: the run's id, shown as its name.
        folder: the run's folder; everything a tracker writes lies in it.
        resolved: the whole config as plain values.
        fingerprints: of every stage of the run.
    """
    state = open_state(folder, fingerprints)
    state.save(folder)
    trackers: list[Tracker] = []
    if config.wandb is not WandbMode.DISABLED:
        from pipeline.tracking.wandb import open_wandb

        trackers.append(open_wandb(config, run=run, id=state.id, folder=folder, resolved=resolved))
    if config.tensorboard:
        from pipeline.tracking.tensorboard import TensorBoardTracker

        trackers.append(TensorBoardTracker(folder / "tensorboard" / state.id))
    return Tracking(folder, trackers, state)
