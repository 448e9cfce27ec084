"""JSON Lines and JSON arrays, a row at a time: memory holds one row, whatever the file's size."""

import codecs
import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any, BinaryIO

from stages.contracts import UserError
from stages.records.files.opening import open_bytes
from stages.records.rows import Located
from stages.records.schemas import RecordError

WHOLE = "(the whole row)"  # the field of an error that no single field has
_BOM = b"\xef\xbb\xbf"
_CHUNK = 2**16


def read_json_lines(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """One object a line; blank lines are no rows."""
    with open_bytes(path) as stream:
        for number, line in lines(stream, max_row_bytes):
            position = f"line {number}"
            if isinstance(line, RecordError):
                yield Located(str(path), position, line)
            elif line.strip():
                yield _located(path, position, line.removeprefix(_BOM) if number == 1 else line)


def read_json(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """An array of objects; a file that starts with an object is read as JSON Lines."""
    with open_bytes(path) as stream:
        start = stream.read(_CHUNK).removeprefix(_BOM).lstrip()[:1]
    if start == b"{":
        yield from read_json_lines(path, max_row_bytes)
    elif start == b"[":
        yield from _read_array(path, max_row_bytes)
    elif start:
        raise UserError(
            f"{path} is neither a JSON array nor JSON Lines",
            got=f"it starts with {start.decode(errors='replace')!r}",
            do="an array of objects, or one object a line",
        )


def lines(stream: BinaryIO, max_bytes: int) -> Iterator[tuple[int, bytes | RecordError]]:
    """Numbered lines, the first is 1; of one above `max_bytes` nothing is kept but an error."""
    number = 0
    while line := stream.readline(max_bytes + 1):
        number += 1
        if len(line) <= max_bytes or line.endswith(b"\n"):
            yield number, line
            continue
        while line and not line.endswith(b"\n"):
            line = stream.readline(_CHUNK)
        yield number, too_long(max_bytes)


def too_long(max_bytes: int) -> RecordError:
    """The error of a row that memory should not hold."""
    return RecordError(WHOLE, f"more than {max_bytes} bytes", "shorten it, or raise max_row_bytes")


def not_utf8(error: UnicodeDecodeError, field: str = WHOLE) -> RecordError:
    """The error of bytes that are no UTF-8."""
    got = f"byte {error.start + 1} is 0x{error.object[error.start]:02x}, not UTF-8"
    return RecordError(field, got, "save the file as UTF-8")


def _located(path: Path, position: str, line: bytes) -> Located:
    try:
        values = _object(line.decode())
    except UnicodeDecodeError as error:
        return Located(str(path), position, not_utf8(error))
    except RecordError as error:
        return Located(str(path), position, error)
    return Located(str(path), position, values)


def _object(text: str) -> dict[str, Any]:
    try:
        value = _DECODER.decode(text)
    except RecursionError:
        raise RecordError(WHOLE, "nested too deeply", "at most some hundred levels") from None
    except RecordError:
        raise
    except ValueError as error:
        raise RecordError(WHOLE, str(error), "one whole JSON object a line") from None
    if not isinstance(value, dict):
        raise RecordError(WHOLE, f"a {type(value).__name__}", "one JSON object a line")
    return value


def _unique(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """json would silently keep the last of two equal keys."""
    values = dict(pairs)
    if len(values) != len(pairs):
        keys = [key for key, _ in pairs]
        twice = next(key for key in keys if keys.count(key) > 1)
        raise RecordError(twice, "given twice", "each key once in an object")
    return values


_DECODER = json.JSONDecoder(object_pairs_hook=_unique)


def _read_array(path: Path, max_row_bytes: int) -> Iterator[Located]:
    """Objects one after the other from a growing piece of the file."""
    with open_bytes(path) as stream:
        text = _Window(path, stream, max_row_bytes)
        text.skip("[")
        row = 0
        while not text.ends_with_bracket(row):
            yield text.take(row)
            row += 1
        if rest := text.rest():
            raise UserError(f"{path} goes on after its array", got=rest, do="one array a file")


class _Window:
    """The part of a JSON array that is in memory: at most a row and a chunk."""

    def __init__(self, path: Path, stream: BinaryIO, max_row_bytes: int) -> None:
        self.path, self.stream, self.limit = path, stream, max_row_bytes
        self.decoder = codecs.getincrementaldecoder("utf-8-sig")()
        self.text, self.read, self.ended = "", 0, False

    def skip(self, character: str) -> None:
        """Go past one character and the blanks before it."""
        self._to_next()
        assert self.text.startswith(character)
        self.text = self.text[1:]

    def rest(self) -> str:
        """The start of what comes next; nothing at the end of the file."""
        self._to_next()
        return self.text[:20]

    def ends_with_bracket(self, row: int) -> bool:
        """Whether the array closes here; goes past the comma between rows."""
        self._to_next()
        if self.text.startswith("]"):
            self.text = self.text[1:]
            return True
        if row and self.text.startswith(","):
            self.text = self.text[1:]
            self._to_next()
        elif row:
            raise self._broken(row, f"{self.text[:20]!r} where a comma or ] should be")
        return False

    def take(self, row: int) -> Located:
        """The next object; what it says twice is its own fault, broken JSON the file's."""
        while True:
            try:
                value, end = _DECODER.raw_decode(self.text)
            except RecordError as error:
                value, end = error, json.JSONDecoder().raw_decode(self.text)[1]
            except RecursionError:
                raise self._broken(row, "nested too deeply") from None
            except ValueError as error:
                if self.ended or len(self.text) > self.limit:
                    raise self._broken(row, str(error)) from None
                self._grow(len(self.text))
                continue
            self.text = self.text[end:]
            if not isinstance(value, dict | RecordError):
                hint = "each row of the array is an object"
                value = RecordError(WHOLE, f"a {type(value).__name__}", hint)
            return Located(str(self.path), f"row {row}", value)

    def _to_next(self) -> None:
        self.text = self.text.lstrip()
        while not self.text and not self.ended:
            self._grow(0)
            self.text = self.text.lstrip()

    def _grow(self, wanted: int) -> None:
        chunk = self.stream.read(max(wanted, _CHUNK))
        self.ended = not chunk
        try:
            self.text += self.decoder.decode(chunk, final=not chunk)
        except UnicodeDecodeError as error:
            fault = not_utf8(error)
            after = f"after byte {self.read}: {fault.got}"
            raise UserError(f"{self.path} is not UTF-8", got=after, do=fault.hint) from None
        self.read += len(chunk)

    def _broken(self, row: int, got: str) -> UserError:
        return UserError(
            f"{self.path}, row {row}, field {WHOLE}: the JSON array breaks off here",
            got=got,
            do=f"mend the file; a row has at most max_row_bytes={self.limit} bytes",
        )
