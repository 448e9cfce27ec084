"""Parquet files of records: written whole, read back with file, row and field in the error."""

import os
from collections.abc import Iterable, Iterator
from dataclasses import asdict, fields
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages.contracts import UserError
from stages.records.schemas import Comparison, Completions, Demonstration, Prompt, RecordError, Text

R = TypeVar("R", Demonstration, Prompt, Completions, Comparison, Text)
GROUP_ROWS, GROUP_CHARACTERS = 10_000, 2**25  # a row group of a written table holds this at most
READ_ROWS = 512


def write_table(path: Path, records: Iterable[R]) -> None:
    """Write records to one Parquet file, atomically and in constant memory."""
    records = iter(records)
    first = next(records, None)
    if first is None:
        raise ValueError(f"no records for {path}")
    with TableWriter(path, type(first)) as table:
        table.add(first)
        for record in records:
            table.add(record)


class TableWriter(Generic[R]):
    """A Parquet file that grows record by record, a row group at a time; whole or not at all."""

    def __init__(self, path: Path, kind: type[R]) -> None:
        import pyarrow.parquet as pq

        path.parent.mkdir(parents=True, exist_ok=True)
        self._path, self._scratch = path, path.with_suffix(".tmp")
        self._schema = _schema(kind)
        self._file = pq.ParquetWriter(self._scratch, self._schema)
        self._rows: list[dict[str, Any]] = []
        self._characters = 0

    def add(self, record: R) -> None:
        """Append one record."""
        row = _to_row(record)
        self._rows.append(row)
        self._characters += sum(len(str(value)) for value in row.values())
        if len(self._rows) >= GROUP_ROWS or self._characters >= GROUP_CHARACTERS:
            self._flush()

    def _flush(self) -> None:
        import pyarrow as pa

        self._file.write_table(pa.Table.from_pylist(self._rows, schema=self._schema))
        self._rows, self._characters = [], 0

    def __enter__(self) -> "TableWriter[R]":
        return self

    def __exit__(self, failed: type[BaseException] | None, *_: object) -> None:
        if failed is None and self._rows:
            self._flush()
        self._file.close()
        if failed is None:
            os.replace(self._scratch, self._path)
        else:
            self._scratch.unlink()


def read_table(path: Path, kind: type[R]) -> list[R]:
    """Read and validate every row of a Parquet file."""
    return list(iterate_table(path, kind))


def iterate_table(path: Path, kind: type[R]) -> Iterator[R]:
    """Read and validate one row after another, in constant memory."""
    for number, row in enumerate(_rows(path)):
        yield parse_row(row, kind, path, number)


def _rows(path: Path) -> Iterator[dict[str, Any]]:
    import pyarrow.parquet as pq

    if not path.exists():
        raise UserError(
            f"the table {path.name} is missing", got=str(path), do="check the artifact's folder"
        )
    try:
        with pq.ParquetFile(path) as file:
            for batch in file.iter_batches(batch_size=READ_ROWS):
                yield from batch.to_pylist()
    except OSError as error:
        raise UserError(
            f"{path} is not a readable Parquet file", got=str(error), do="make it again"
        ) from None


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


def texts(records: Iterable[Text]) -> Iterator[str]:
    """The plain strings of a text table."""
    return (record.text for record in records)
