"""What is known of a run: `run.json` while it goes, `summary.json` when it is over.

The run command writes `run.json` at every change of a stage's state; `show`, `report` and
`write_summary` read it. `summary.json` holds the figures a run is judged by, nested at the dots.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any, Self

from pipeline.executors.protocol import StageState, Status

RUN_FILE, SUMMARY_FILE = "run.json", "summary.json"
MEASURED = ("wall_s", "cpu_s", "peak_pss_gb")


@dataclass(kw_only=True)
class StageRecord:
    """One stage of a run.

    inputs: the stage's keyword -> the upstream asset. folder: the artifact, complete once the
    status is cached, given or done. seconds: what this run spent on it, 0 where it did not execute.
    note: why it runs or waits. error: set when it failed.
    """

    status: Status = Status.WAITING
    inputs: dict[str, str] = field(default_factory=dict)
    fingerprint: str = ""
    folder: str = ""
    journal: str = ""
    seconds: float = 0.0
    note: str = ""
    error: str = ""

    @classmethod
    def of(cls, state: StageState, inputs: Mapping[str, str]) -> Self:
        """The record of what the driver sees of a stage."""
        started, ended = state.started, state.ended
        return cls(
            status=state.status,
            inputs=dict(inputs),
            fingerprint=state.fingerprint,
            folder=str(state.folder),
            journal=str(state.journal),
            seconds=round(ended - started, 3) if started and ended else 0.0,
            note=state.note,
            error=state.error,
        )


@dataclass(kw_only=True)
class RunRecord:
    """One run. started: Unix time. departures: config key -> (default, this run's value).

    wall_s, cpu_s: of this command so far; peak_pss_gb: over all its processes at once.
    """

    run: str
    command: str = ""
    status: Status = Status.RUNNING
    started: float = 0.0
    wall_s: float = 0.0
    cpu_s: float = 0.0
    peak_pss_gb: float = 0.0
    stages: dict[str, StageRecord] = field(default_factory=dict)
    departures: dict[str, tuple[Any, Any]] = field(default_factory=dict)

    @property
    def executed(self) -> list[str]:
        """The stages this command worked on."""
        idle = (Status.WAITING, Status.CACHED, Status.GIVEN)
        return [asset for asset, stage in self.stages.items() if stage.status not in idle]


def write_run(folder: Path, record: RunRecord) -> None:
    """Write `run.json`, atomically."""
    _write_json(folder / RUN_FILE, asdict(record))


def read_run(folder: Path) -> RunRecord:
    """Read `run.json`.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    raw = json.loads((folder / RUN_FILE).read_text())
    stages = {
        asset: StageRecord(**{**stage, "status": Status(stage["status"])})
        for asset, stage in raw["stages"].items()
    }
    departures = {key: (pair[0], pair[1]) for key, pair in raw["departures"].items()}
    return RunRecord(
        **{**raw, "status": Status(raw["status"]), "stages": stages, "departures": departures}
    )


def write_summary(folder: Path, record: RunRecord, figures: Mapping[str, Any]) -> dict[str, Any]:
    """Write `summary.json`: what the run took, and its final figures by their full dotted names.

    A run that executes nothing keeps the times and the memory of the run that did the work.
    """
    measured = {name: round(float(getattr(record, name)), 3) for name in MEASURED}
    cached = not record.executed
    path = folder / SUMMARY_FILE
    if cached and path.exists():
        before = json.loads(path.read_text())
        measured = {name: before[name] for name in MEASURED}
    summary = {"run": record.run, **measured, "cached": cached, **nest(figures)}
    _write_json(path, summary)
    return summary


def full_names(metrics: Mapping[str, Mapping[str, Any]]) -> dict[str, Any]:
    """Figures under their asset's name, unless the name already begins with an asset.

    So evaluation may measure `reward_model.accuracy_gold`, and sft report a plain `gold`.
    """
    full: dict[str, Any] = {}
    for asset, figures in metrics.items():
        for name, value in figures.items():
            group, dot, _ = name.partition(".")
            full[name if dot and group in metrics else f"{asset}.{name}"] = value
    return full


def nest(flat: Mapping[str, Any]) -> dict[str, Any]:
    """`{"a.b": 1}` as `{"a": {"b": 1}}`."""
    tree: dict[str, Any] = {}
    for name, value in flat.items():
        *groups, leaf = name.split(".")
        node = tree
        for group in groups:
            node = node.setdefault(group, {})
        node[leaf] = value
    return tree


def _write_json(path: Path, content: Mapping[str, Any]) -> None:
    scratch = path.with_suffix(".tmp")
    scratch.write_text(json.dumps(content, indent=2) + "\n")
    os.replace(scratch, path)
