"""What a run leaves in its folder: run.json, summary.json, metrics.parquet, report.html."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

from pipeline.reporting.data import final_figures, load_manifests
from pipeline.summary import RunRecord, write_run, write_summary
from pipeline.tracking.metrics_table import METRICS_TABLE, write_metrics_table

REPORT_FILE = "report.html"


def write_outputs(folder: Path, record: RunRecord) -> dict[str, Any]:
    """Write all of it; the summary is returned.

    A run that executed nothing leaves metrics and report as they are, so that it ends at once.
    """
    write_run(folder, record)
    summary = write_summary(folder, record, final_figures(record, load_manifests(record)))
    _unless_kept(folder / METRICS_TABLE, record, lambda: _write_metrics(folder, record))
    _unless_kept(folder / REPORT_FILE, record, lambda: _write_report(folder))
    return summary


def _unless_kept(path: Path, record: RunRecord, write: Callable[[], object]) -> None:
    if record.executed or not path.exists():
        write()


def _write_metrics(folder: Path, record: RunRecord) -> None:
    journals = {a: Path(stage.journal) for a, stage in record.stages.items() if stage.journal}
    write_metrics_table(folder, record.run, journals)


def _write_report(folder: Path) -> None:
    from pipeline.reporting.page import write_report  # matplotlib: only when there is something new

    write_report(folder)
