"""`metrics.parquet`: all metrics of all stages of a run, tidy: run, stage, step, name, value."""

import os
from collections.abc import Mapping
from pathlib import Path

from pipeline.tracking.journals import read_metrics

METRICS_TABLE = "metrics.parquet"


def write_metrics_table(folder: Path, run: str, journals: Mapping[str, Path]) -> Path:
    """Write the table anew from the stages' journals, atomically.

    Args:
        folder: the run's folder.
        run: the run's id.
        journals: stage -> its journal's folder; a stage that logged nothing adds no row.
    """
    import pyarrow as pa
    import pyarrow.parquet as pq

    schema = pa.schema(
        [
            ("run", pa.string()),
            ("stage", pa.string()),
            ("step", pa.int64()),
            ("name", pa.string()),
            ("value", pa.float64()),
        ]
    )
    rows = [
        {"run": run, "stage": stage, "step": step, "name": name, "value": value}
        for stage, journal in journals.items()
        for name, curve in sorted(read_metrics(journal).items())
        for step, value in curve.items()
    ]
    path = folder / METRICS_TABLE
    scratch = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=schema), scratch)
    os.replace(scratch, path)
    return path
