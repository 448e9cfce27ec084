"""What a run has told its trackers, kept in its folder so that no step is told twice."""

import json
import math
import os
import uuid
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path

from pipeline.tracking.journals import Record

STATE_FILE = "tracking.json"


@dataclass(kw_only=True)
class TrackingState:
    """Per stage its fingerprint and the last step of every name; per run its id and an index.

    It is saved before the trackers get the records: a driver killed in between loses a point of a
    drawing (metrics.parquet has it), it never shows one twice.
    """

    id: str = field(default_factory=lambda: uuid.uuid4().hex[:8])
    index: int = 0
    fingerprints: dict[str, str] = field(default_factory=dict)
    last_steps: dict[str, dict[str, int]] = field(default_factory=dict)
    artifacts: list[str] = field(default_factory=list)

    def new_values(self, stage: str, record: Record) -> dict[str, float]:
        """The figures of a record that were not told yet; they count as told from now on."""
        last = self.last_steps.setdefault(stage, {})
        fresh = {
            n: v for n, v in record["values"].items() if record["step"] > last.get(n, -math.inf)
        }
        last.update(dict.fromkeys(fresh, record["step"]))
        return fresh

    def is_new_table(self, stage: str, record: Record) -> bool:
        """Whether this table was not told yet; it counts as told from now on."""
        return bool(
            self.new_values(stage, {"step": record["step"], "values": {_table_key(record): 0.0}})
        )

    def next_index(self) -> int:
        """The next number of the run's own axis."""
        self.index += 1
        return self.index

    def save(self, folder: Path) -> None:
        """Write the state into the run's folder, atomically."""
        scratch = folder / f"{STATE_FILE}.tmp"
        scratch.write_text(json.dumps(asdict(self)))
        os.replace(scratch, folder / STATE_FILE)


def _table_key(record: Record) -> str:
    return f"table {record['name']}"


def open_state(folder: Path, fingerprints: Mapping[str, str]) -> TrackingState:
    """The state of an earlier try of this run, or a new one.

    A stage that was told with another fingerprint (its code changed) draws other curves. A tracker
    cannot take points back, so such a run begins anew under a new id.
    """
    path = folder / STATE_FILE
    if not path.exists():
        return TrackingState(fingerprints=dict(fingerprints))
    state = TrackingState(**json.loads(path.read_text()))
    told = {stage: state.fingerprints[stage] for stage in state.last_steps}
    if any(fingerprints.get(stage, mark) != mark for stage, mark in told.items()):
        return TrackingState(fingerprints=dict(fingerprints))
    state.fingerprints.update(fingerprints)
    return state
