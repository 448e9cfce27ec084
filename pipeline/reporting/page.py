"""`report.html`: one file a run, complete in itself, drawn from the run's own files.

Everything that a model or a user wrote goes through the template's escaping; the pictures are ours.
"""

import os
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jinja2 import Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from pipeline.executors.protocol import Status
from pipeline.manifest import Manifest
from pipeline.reporting import calibration, examination, over_optimisation
from pipeline.reporting.data import RunData, load_run
from pipeline.reporting.graph import draw_graph
from pipeline.reporting.headline import decimals, headlines, seconds
from pipeline.reporting.outputs import REPORT_FILE
from pipeline.reporting.panels import DrawnPanel, draw_panels
from pipeline.reporting.samples import choose
from pipeline.reporting.sections import SECTIONS, panels_of_member, panels_of_round
from pipeline.summary import StageRecord
from pipeline.workflow import MEMBER, ROUND

KEPT = {Status.CACHED: "kept"}


@dataclass(frozen=True)
class Section:
    """Panels under one heading."""

    title: str
    panels: list[DrawnPanel]


@dataclass(frozen=True)
class Comparison:
    """Gold against proxy: the picture and what it says."""

    picture: Markup
    finding: str
    words: str
    prompts: str


@dataclass(frozen=True)
class LineageRow:
    """One stage in the table of where everything came from."""

    asset: str
    status: str
    fingerprint: str
    inputs: str
    made: str
    took: str
    folder: str
    error: str


def write_report(folder: Path) -> Path:
    """Draw a run's report into its folder, atomically; any run will do, finished or not.

    Raises:
        FileNotFoundError: the folder holds no run.
    """
    path = folder / REPORT_FILE
    scratch = path.with_suffix(".tmp")
    scratch.write_text(render(load_run(folder)), encoding="utf-8")
    os.replace(scratch, path)
    return path


def render(run: RunData) -> str:
    """The page of a run."""
    environment = Environment(
        loader=PackageLoader("pipeline.reporting", ""),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {"seconds": seconds, "score": _score}
    return environment.get_template("page.html").render(
        record=run.record,
        started=_moment(run.record.started),
        graph=draw_graph(run.record, _times(run)),
        headlines=headlines(run.figures),
        comparison=_comparison(run),
        sections=_sections(run),
        samples=choose(run.samples),
        lineage=_lineage(run),
        figures={name: _plain(value) for name, value in sorted(run.figures.items())},
    )


def _sections(run: RunData) -> list[Section]:
    drawn = {
        title: [
            panel
            for asset, panels in parts.items()
            for panel in draw_panels(asset, panels, run.curves.get(asset, {}))
        ]
        for title, parts in SECTIONS
    }
    for asset in (asset for asset in run.curves if asset.startswith(MEMBER)):
        drawn["Reward model"] += draw_panels(asset, panels_of_member(asset), run.curves[asset])
    for asset in (asset for asset in run.curves if asset.startswith(ROUND)):
        drawn["Policy"] += draw_panels(asset, panels_of_round(asset), run.curves[asset])
    drawn["Reward model"] += calibration.draw_panel(run.calibration)
    drawn["Reward model"] += examination.draw_panels(run.examination, run.answer_scores)
    return [Section(title, panels) for title, panels in drawn.items() if panels]


def _comparison(run: RunData) -> Comparison | None:
    found = over_optimisation.measure(run.curves.get("policy", {}))
    if found is None:
        return None
    picture = over_optimisation.draw(found)
    return Comparison(picture, found.finding.value, found.words, found.source.prompts)


def _times(run: RunData) -> dict[str, str]:
    """What a box of the graph says: the time a stage took now, or took when it was made."""
    return {
        asset: _time(stage, run.manifests.get(asset)) for asset, stage in run.record.stages.items()
    }


def _time(stage: StageRecord, manifest: Manifest | None) -> str:
    if stage.status is Status.DONE:
        return seconds(stage.seconds)
    took = f" ({seconds(manifest.time.wall_s)})" if manifest else ""
    return f"{KEPT.get(stage.status, stage.status.value)}{took}"


def _lineage(run: RunData) -> list[LineageRow]:
    return [_lineage_row(run, asset, stage) for asset, stage in run.record.stages.items()]


def _lineage_row(run: RunData, asset: str, stage: StageRecord) -> LineageRow:
    manifest = run.manifests.get(asset)
    parents = manifest.parents.values() if manifest else ()
    inputs = [f"{parent.asset} {parent.fingerprint[:8]}" for parent in parents]
    return LineageRow(
        asset=asset,
        status=stage.status.value,
        fingerprint=stage.fingerprint[:16],
        inputs=", ".join(inputs or stage.inputs.values()),
        made=_moment(manifest.time.ended) if manifest else "",
        took=seconds(manifest.time.wall_s) if manifest else "",
        folder=stage.folder if manifest else "",
        error=stage.error,
    )


def _moment(unix: float) -> str:
    return time.strftime("%Y-%m-%d %H:%M UTC", time.gmtime(unix)) if unix else ""


def _score(value: float | None) -> str:
    return "–" if value is None else decimals(value)


def _plain(value: Any) -> str:
    if isinstance(value, list):
        return " to ".join(map(_plain, value))
    return f"{value:.4g}" if isinstance(value, float) else str(value)
