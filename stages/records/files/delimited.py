"""CSV and TSV with a header; a quoted field may hold line breaks."""

import csv
from collections.abc import Iterator
from pathlib import Path

from stages.contracts import UserError
from stages.records.files.json_lines import WHOLE, lines, not_utf8, too_long
from stages.records.files.opening import open_bytes
from stages.records.rows import Located
from stages.records.schemas import RecordError


def read_csv(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """Comma-separated values."""
    return _read(path, max_row_bytes, ",")


def read_tsv(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """Tab-separated values."""
    return _read(path, max_row_bytes, "\t")


def _read(path: Path, max_row_bytes: int, delimiter: str) -> Iterator[Located]:
    csv.field_size_limit(max(max_row_bytes, csv.field_size_limit()))
    with open_bytes(path) as stream:
        text = (_decoded(path, number, line) for number, line in lines(stream, max_row_bytes))
        reader = csv.reader(text, delimiter=delimiter, strict=True)
        header = _header(path, reader)
        start = reader.line_num + 1
        while (cells := _next(path, reader, start)) is not None:
            if cells != []:  # a blank line
                yield Located(str(path), f"line {start}", _values(header, cells, max_row_bytes))
            start = reader.line_num + 1


def _decoded(path: Path, number: int, line: bytes | RecordError) -> str:
    """A line as text; bytes that are no UTF-8 stay as surrogates, for their own row to report."""
    if isinstance(line, RecordError):
        raise UserError(
            f"{path}, line {number}, field {WHOLE} is too long", got=line.got, do=line.hint
        )
    return line.decode("utf-8-sig" if number == 1 else "utf-8", errors="surrogateescape")


def _header(path: Path, reader: "Iterator[list[str]]") -> list[str]:
    header = next(reader, [])
    twice = sorted({name for name in header if header.count(name) > 1})
    if twice:
        raise UserError(
            f"{path}, line 1, field {twice[0]}: the column is named twice",
            got=", ".join(header),
            do="name every column once",
        )
    return header


def _next(path: Path, reader: "Iterator[list[str]]", start: int) -> list[str] | None:
    try:
        return next(reader, None)
    except csv.Error as error:
        raise UserError(
            f"{path}, line {start}, field {WHOLE}: the row cannot be read",
            got=str(error),
            do="close every quote, and double those inside a quoted field",
        ) from None


def _values(
    header: list[str], cells: list[str], max_row_bytes: int
) -> dict[str, str] | RecordError:
    if len(cells) != len(header):
        got = f"{len(cells)} cells under {len(header)} columns"
        return RecordError(WHOLE, got, "one cell for each column")
    if sum(map(len, cells)) > max_row_bytes:
        return too_long(max_row_bytes)
    for name, cell in zip(header, cells, strict=True):
        try:
            cell.encode("utf-8", errors="surrogateescape").decode()
        except UnicodeDecodeError as error:
            return not_utf8(error, name)
    return dict(zip(header, cells, strict=True))
