"""Parquet and Arrow: batches of columns turned into rows."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

from stages.contracts import UserError
from stages.records.files.json_lines import WHOLE, not_utf8, too_long
from stages.records.rows import Located
from stages.records.schemas import RecordError

_BATCH = 256  # rows in memory at once


def read_parquet(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """The rows of a Parquet file, counted from 0."""
    import pyarrow.parquet as pq

    _refuse_compressed(path)
    with pq.ParquetFile(path) as file:
        _check_names(path, file.schema_arrow.names)
        yield from rows_of(str(path), file.iter_batches(batch_size=_BATCH), max_row_bytes)


def read_arrow(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """The rows of an Arrow stream, as `datasets` caches them, or of an Arrow file."""
    import pyarrow as pa

    _refuse_compressed(path)
    with pa.memory_map(str(path)) as source:
        magic = source.read(6)
        source.seek(0)
        if magic == b"ARROW1":
            file = pa.ipc.open_file(source)
            batches = (file.get_batch(index) for index in range(file.num_record_batches))
            _check_names(path, file.schema.names)
            yield from rows_of(str(path), batches, max_row_bytes)
        else:
            stream = pa.ipc.open_stream(source)
            _check_names(path, stream.schema.names)
            yield from rows_of(str(path), stream, max_row_bytes)


def read_saved(folder: Path, split: str | None, max_row_bytes: int) -> Iterator[Located]:
    """The rows of a folder that `datasets.save_to_disk` wrote."""
    import datasets

    data = datasets.load_from_disk(str(folder))
    if isinstance(data, datasets.DatasetDict):
        if split not in data:
            raise UserError(
                f"{folder} holds several splits", got=str(split), do=f"split: one of {list(data)}"
            )
        data = data[split]
    tables = data.with_format("arrow").iter(batch_size=_BATCH)
    batches = (batch for table in tables for batch in table.to_batches())
    return rows_of(str(folder), batches, max_row_bytes)


def rows_of(file: str, batches: Iterable[Any], max_row_bytes: int) -> Iterator[Located]:
    """Rows of record batches; one that cannot be decoded is found alone."""
    number = 0
    for batch in batches:
        for start in range(0, batch.num_rows, _BATCH):
            piece = batch.slice(start, _BATCH)
            for row in _decoded(piece, max_row_bytes):
                yield Located(file, f"row {number}", row)
                number += 1


def _decoded(batch: Any, max_row_bytes: int) -> list[dict[str, Any] | RecordError]:
    if batch.nbytes <= max_row_bytes:
        try:
            rows: list[dict[str, Any] | RecordError] = batch.to_pylist()
        except UnicodeDecodeError:
            pass  # found below, row by row
        else:
            return rows
    return [_row(batch.slice(index, 1), max_row_bytes) for index in range(batch.num_rows)]


def _row(row: Any, max_row_bytes: int) -> dict[str, Any] | RecordError:
    if row.nbytes > max_row_bytes:
        return too_long(max_row_bytes)
    values = {}
    for name in row.schema.names:
        try:
            values[name] = row.column(name)[0].as_py()
        except UnicodeDecodeError as error:
            return not_utf8(error, name)
    return values


def _check_names(path: Path, names: list[str]) -> None:
    twice = [name for name in names if names.count(name) > 1]
    if twice:
        raise UserError(
            f"{path}, field {twice[0]}: the column is there twice",
            got=", ".join(names),
            do="name every column once",
        )


def _refuse_compressed(path: Path) -> None:
    if path.suffix not in (".parquet", ".arrow"):
        raise UserError(
            f"{path} is compressed as a whole",
            got=path.suffix,
            do=f"unpack it: such files are compressed inside, and {WHOLE} reading needs jumps",
        )
