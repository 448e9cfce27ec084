"""Plain text: each line a row with the fields `line`, `number` and `file`."""

from collections.abc import Iterator
from pathlib import Path

from stages.records.files.json_lines import lines, not_utf8
from stages.records.files.opening import open_bytes
from stages.records.rows import Located
from stages.records.schemas import RecordError


def read_text(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """The lines of a text file, their ends kept."""
    with open_bytes(path) as stream:
        for number, line in lines(stream, max_row_bytes):
            yield Located(str(path), f"line {number}", _values(path, number, line))


def _values(
    path: Path, number: int, line: bytes | RecordError
) -> dict[str, str | int] | RecordError:
    if isinstance(line, RecordError):
        return line
    try:
        text = line.decode("utf-8-sig" if number == 1 else "utf-8")
    except UnicodeDecodeError as error:
        return not_utf8(error, "line")
    return {"line": text, "number": number, "file": str(path)}
