"""Small files of every format that the reader knows."""

import json
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, TypeVar

from stages.records.account import Account
from stages.records.reading import read_source
from stages.records.schemas import Comparison, Demonstration, Prompt, Text
from stages.records.sources import SourceConfig

R = TypeVar("R", Demonstration, Prompt, Comparison, Text)
Row = Mapping[str, Any]


def json_lines(path: Path, rows: Sequence[Row]) -> Path:
    path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return path


def read(kind: type[R], path: Path, **keys: Any) -> tuple[list[R], Account]:
    """All records, once every row is shown to be used or counted."""
    loaded = read_source(SourceConfig(path=str(path), **keys), kind)
    records = list(loaded)
    account = loaded.account
    assert account.rows == account.used + account.dropped.total()
    assert account.records == len(records)
    return records, account


def read_rows(
    kind: type[R], folder: Path, rows: Sequence[Row], **keys: Any
) -> tuple[list[R], Account]:
    return read(kind, json_lines(folder / "rows.jsonl", rows), **keys)
