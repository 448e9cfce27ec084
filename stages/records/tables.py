"""Parquet files of records: written whole, read back with file, row and field in the error."""

import os
from collections.abc import Iterable, Sequence
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, TypeVar

from stages.contracts import UserError
from stages.records.schemas import Comparison, Completions, Demonstration, Prompt, RecordError, Text

R = TypeVar("R", Demonstration, Prompt, Completions, Comparison, Text)


def write_table(path: Path, records: Sequence[R]) -> None:
    """Write records to one Parquet file, atomically."""
    import pyarrow as pa
    import pyarrow.parquet as pq

    kind = type(records[0]) if records else None
    if kind is None:
        raise ValueError(f"no records for {path}")
    rows = [_to_row(record) for record in records]
    path.parent.mkdir(parents=True, exist_ok=True)
    scratch = path.with_suffix(".tmp")
    pq.write_table(pa.Table.from_pylist(rows, schema=_schema(kind)), scratch)
    os.replace(scratch, path)


def read_table(path: Path, kind: type[R]) -> list[R]:
    """Read and validate every row of a Parquet file."""
    import pyarrow.parquet as pq

    if not path.exists():
        raise UserError(
            f"the table {path.name} is missing", got=str(path), do="check the artifact's folder"
        )
    try:
        rows = pq.read_table(path).to_pylist()
    except OSError as error:
        raise UserError(
            f"{path} is not a readable Parquet file", got=str(error), do="make it again"
        ) from None
    return [parse_row(row, kind, path, number) for number, row in enumerate(rows)]


def parse_row(row: dict[str, Any], kind: type[R], path: Path, number: int) -> R:
    """One record from one row; an error names the file, the row and the field."""
    known = {f.name for f in fields(kind)}
    try:
        return kind(**{name: _restore(name, value) for name, value in row.items() if name in known})
    except RecordError as error:
        where = f"{path}, row {number}, field {error.field}"
        raise UserError(f"bad record in {where}", got=error.got, do=error.hint) from None
    except TypeError as error:
        raise UserError(
            f"bad record in {path}, row {number}", got=str(error), do=f"columns: {sorted(known)}"
        ) from None


def _to_row(record: R) -> dict[str, Any]:
    row = asdict(record)
    if row.get("pairs") is not None:
        row["pairs"] = [{"better": b, "worse": w, "margin": m} for b, w, m in row["pairs"]]
    return row


def _restore(name: str, value: Any) -> Any:
    if name == "pairs" and value is not None:
        return [(pair["better"], pair["worse"], pair["margin"]) for pair in value]
    return value


def _schema(kind: type[R]) -> Any:
    """The Arrow types of each table, so that an all-null column keeps its type."""
    import pyarrow as pa

    message = pa.struct([("role", pa.string()), ("content", pa.string())])
    pair = pa.struct([("better", pa.int32()), ("worse", pa.int32()), ("margin", pa.float64())])
    types = {
        "prompt": pa.list_(message),
        "completions": pa.list_(pa.string()),
        "source": pa.list_(pa.string()),
        "finished": pa.list_(pa.bool_()),
        "ranks": pa.list_(pa.int32()),
        "scores": pa.list_(pa.float64()),
        "pairs": pa.list_(pair),
        "weight": pa.float64(),
    }
    return pa.schema([(f.name, types.get(f.name, pa.string())) for f in fields(kind)])


def texts(records: Iterable[Text]) -> list[str]:
    """The plain strings of a text table."""
    return [record.text for record in records]
