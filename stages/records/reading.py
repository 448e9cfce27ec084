"""From a source to records: its rows through its format, every row accounted for."""

from collections.abc import Callable, Iterator
from dataclasses import dataclass, field
from itertools import islice
from pathlib import Path
from typing import Any, Generic, TypeVar

from stages.contracts import UserError
from stages.records.account import Account
from stages.records.adapter import Rows
from stages.records.adapters import make_adapter
from stages.records.files.columnar import read_arrow, read_parquet, read_saved
from stages.records.files.delimited import read_csv, read_tsv
from stages.records.files.hub import read_hub, resolve_revision
from stages.records.files.json_lines import read_json, read_json_lines
from stages.records.files.opening import find_files, format_of, is_saved_dataset
from stages.records.files.plain import read_text
from stages.records.rows import Located
from stages.records.schemas import Comparison, Demonstration, Prompt, Text
from stages.records.sources import SourceConfig

R = TypeVar("R", Demonstration, Prompt, Comparison, Text)

READERS: dict[str, Callable[[Path, int], Iterator[Located]]] = {
    "jsonl": read_json_lines,
    "json": read_json,
    "csv": read_csv,
    "tsv": read_tsv,
    "parquet": read_parquet,
    "arrow": read_arrow,
    "text": read_text,
}


@dataclass(kw_only=True)
class Loaded(Generic[R]):
    """Records that are read as they are asked for, once, and what became of the rows.

    account: complete when the records are exhausted. revision: the hub's commit, None for files.
    """

    records: Iterator[R]
    account: Account
    files: list[Path] = field(default_factory=list)
    revision: str | None = None

    def __iter__(self) -> Iterator[R]:
        return self.records


def read_source(source: SourceConfig, kind: type[R]) -> Loaded[R]:
    """The records of one kind that a source holds.

    Raises:
        UserError: a source that is not there or cannot be read; while reading, a row that breaks
            its format, unless on_bad_row=skip.
    """
    source.check()
    adapter = make_adapter(source, kind)
    account = Account(on_bad_row=source.on_bad_row)
    files = source_files(source)
    revision = None if files else resolve_revision(source)
    located = read_hub(source, revision) if revision else _read_files(source, files)
    rows = Rows(islice(located, source.max_rows or None), account)
    tables: dict[Any, Callable[[Rows], Iterator[Any]]] = {
        Demonstration: adapter.demonstrations,
        Comparison: adapter.comparisons,
        Prompt: adapter.prompts,
        Text: adapter.texts,
    }
    records = _watched(tables[kind](rows), account)
    return Loaded(records=records, account=account, files=files, revision=revision)


def _watched(records: Iterator[Any], account: Account) -> Iterator[Any]:
    for record in records:
        account.all_tied += isinstance(record, Comparison) and record.all_tied
        yield record


def source_files(source: SourceConfig) -> list[Path]:
    """The files and saved folders that the source's path names; none for a hub's data set."""
    if not source.path:
        return []
    folder = Path(source.path)
    return [folder] if is_saved_dataset(folder) else find_files(source.path, source.split)


def _read_files(source: SourceConfig, files: list[Path]) -> Iterator[Located]:
    for file in files:
        empty = True
        for row in _read_file(file, source):
            empty = False
            yield row
        if empty:
            raise UserError(
                f"{file} is empty", got="no row", do="leave it out of the source, or fill it"
            )


def _read_file(file: Path, source: SourceConfig) -> Iterator[Located]:
    import lzma
    import zlib

    import pyarrow as pa

    try:
        if file.is_dir():
            yield from read_saved(file, source.split, source.max_row_bytes)
        else:
            yield from READERS[format_of(file)](file, source.max_row_bytes)
    except (OSError, EOFError, lzma.LZMAError, zlib.error, pa.ArrowException) as error:
        raise UserError(
            f"{file} cannot be read to its end",
            got=f"{type(error).__name__}: {str(error).strip() or 'it breaks off'}",
            do="the file is damaged, or is not what its ending says: fetch or make it again",
        ) from None
