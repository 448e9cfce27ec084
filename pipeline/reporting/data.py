"""What a report is drawn from: the files of one run and of its artifacts."""

import json
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TypeVar

from pipeline.executors.protocol import Status
from pipeline.manifest import Manifest, read_artifact
from pipeline.summary import RunRecord, StageRecord, full_names, read_run
from pipeline.tracking.journals import read_metrics

Curve = dict[int, float]
T = TypeVar("T")
READY = (Status.DONE, Status.CACHED, Status.GIVEN)


@dataclass(kw_only=True)
class RunData:
    """A run as far as it came; what a stage has not made yet is absent or empty.

    curves: asset -> metric -> step -> value. figures: full dotted name -> value. calibration: bins
    {low, high, predicted, observed, count}. examination: the reward model's examination.json.
    answer_scores: how it scores each model's answers. samples: {prompt, kind?, sft, policy and
    their scores}.
    """

    record: RunRecord
    manifests: dict[str, Manifest] = field(default_factory=dict)
    curves: dict[str, dict[str, Curve]] = field(default_factory=dict)
    figures: dict[str, Any] = field(default_factory=dict)
    calibration: list[dict[str, float]] = field(default_factory=list)
    examination: dict[str, Any] = field(default_factory=dict)
    answer_scores: list[dict[str, Any]] = field(default_factory=list)
    samples: list[dict[str, Any]] = field(default_factory=list)


def load_run(folder: Path) -> RunData:
    """Collect a run's files.

    Raises:
        FileNotFoundError: the folder holds no run.
        UserError: an artifact's manifest cannot be read.
    """
    record = read_run(folder)
    manifests = load_manifests(record)
    return RunData(
        record=record,
        manifests=manifests,
        curves=_curves(record),
        figures=final_figures(record, manifests),
        # Evaluation's, on the same pairs as its figures, where it is there already.
        calibration=_file(record, "evaluation", "calibration.json", [])
        or _file(record, "reward_model", "calibration.json", []),
        examination=_file(record, "reward_model", "examination.json", {}),
        answer_scores=_file(record, "evaluation", "score_distributions.json", []),
        samples=_file(record, "evaluation", "samples.json", []),
    )


def load_manifests(record: RunRecord) -> dict[str, Manifest]:
    """The manifests of the stages that are ready."""
    ready = {asset: stage for asset, stage in record.stages.items() if stage.status in READY}
    return {asset: read_artifact(Path(stage.folder)).manifest for asset, stage in ready.items()}


def final_figures(record: RunRecord, manifests: Mapping[str, Manifest]) -> dict[str, Any]:
    """All final figures under their full names.

    Evaluation's figures.json comes last: it may hold more than numbers (intervals).
    """
    metrics: dict[str, dict[str, Any]] = {asset: {} for asset in record.stages}
    metrics |= {asset: dict(manifest.metrics) for asset, manifest in manifests.items()}
    metrics.setdefault("evaluation", {}).update(_file(record, "evaluation", "figures.json", {}))
    return full_names(metrics)


def _curves(record: RunRecord) -> dict[str, dict[str, Curve]]:
    """Of finished stages and of those at work: a journal is there from the first step."""
    curves = {
        asset: read_metrics(Path(stage.journal))
        for asset, stage in record.stages.items()
        if stage.journal
    }
    return {asset: metrics for asset, metrics in curves.items() if metrics}


def _file(record: RunRecord, asset: str, name: str, absent: T) -> T:
    stage = record.stages.get(asset, StageRecord())
    path = Path(stage.folder) / name
    if stage.status not in READY or not path.exists():
        return absent
    content: T = json.loads(path.read_text())
    return content
