"""A row of a file before any format has read it."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from stages.records.schemas import RecordError


class SkipRow(Exception):
    """A row that the format knows and leaves out: counted by its reason, never an error."""

    def __init__(self, reason: str) -> None:
        super().__init__(reason)
        self.reason = reason


@dataclass(frozen=True)
class Located:
    """A row with its place: `position` is `line 7` of a text file (from 1), else `row 7` (from 0).

    found: its values, or what made it unreadable.
    """

    file: str
    position: str
    found: Mapping[str, Any] | RecordError
