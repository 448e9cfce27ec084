"""Reads the journal of a stage while the stage writes it.

A resumed stage cuts its journal back to its checkpoint (`Journal.rewind`), and a published one
moves into its artifact. So a file may shrink, be replaced or change its place between two reads.
"""

import json
import os
from pathlib import Path
from typing import Any

Record = dict[str, Any]
METRICS_FILE, TABLES_FILE = "metrics.jsonl", "tables.jsonl"


class FileTail:
    """Gives the complete lines appended to one file since the last call.

    A replaced or shortened file is read again from its beginning: the caller knows by the step what
    it has seen. Half a line at the end (a writer at work, or killed) waits for its rest.
    """

    def __init__(self) -> None:
        self._inode, self._offset = -1, 0

    def read(self, path: Path) -> list[Record]:
        """The new records; none if the file is not there (yet)."""
        try:
            file = path.open("rb")
        except FileNotFoundError:
            return []
        with file:
            self._find_place(file.fileno())
            file.seek(self._offset)
            content = file.read()
        complete = content[: content.rfind(b"\n") + 1]
        self._offset += len(complete)
        return [json.loads(line) for line in complete.splitlines()]

    def _find_place(self, descriptor: int) -> None:
        status = os.fstat(descriptor)
        if status.st_ino != self._inode or status.st_size < self._offset:
            self._inode, self._offset = status.st_ino, 0


class JournalTail:
    """The two files of one stage's journal, wherever the folder lies at the time."""

    def __init__(self) -> None:
        self._metrics, self._tables = FileTail(), FileTail()

    def read(self, journal: Path) -> tuple[list[Record], list[Record]]:
        """New metric records and new table records."""
        return self._metrics.read(journal / METRICS_FILE), self._tables.read(journal / TABLES_FILE)


def read_metrics(journal: Path) -> dict[str, dict[int, float]]:
    """All curves of a stage: name -> step -> value. A step logged twice counts as logged last."""
    curves: dict[str, dict[int, float]] = {}
    for record in FileTail().read(journal / METRICS_FILE):
        for name, value in record["values"].items():
            curves.setdefault(name, {})[record["step"]] = float(value)
    return {name: dict(sorted(curve.items())) for name, curve in curves.items()}
