"""What became of every row: used in a record, or dropped for a reason that is counted."""

import re
from collections import Counter
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.records.schemas import RecordError
from stages.records.sources import OnBadRow

if TYPE_CHECKING:
    from stages.records.rows import Located

EXAMPLES_EACH = 5  # rows listed for each reason


@dataclass(frozen=True, kw_only=True)
class Dropped:
    """A row that made no record: where it stands and why."""

    file: str
    position: str
    field: str
    why: str

    def __str__(self) -> str:
        return f"{self.file}, {self.position}{self.field and f', field {self.field}'}: {self.why}"


@dataclass(kw_only=True)
class Account:
    """rows == used + dropped.total() once all rows are read.

    dropped: rows by reason. left_out: parts of rows that stand in no record, by what they are.
    all_tied: comparisons in which nothing is better than anything else; they are kept.
    examples: the first dropped rows of each reason.
    """

    on_bad_row: OnBadRow = OnBadRow.error
    rows: int = 0
    used: int = 0
    records: int = 0
    dropped: Counter[str] = field(default_factory=Counter)
    left_out: Counter[str] = field(default_factory=Counter)
    all_tied: int = 0
    examples: list[Dropped] = field(default_factory=list)

    def drop(self, rows: "list[Located]", reason: str) -> None:
        """Count rows that a format leaves out on purpose."""
        self._count(rows, reason, "", reason)

    def bad(self, rows: "list[Located]", error: RecordError) -> None:
        """Count rows that break their format, or raise.

        Raises:
            UserError: unless on_bad_row=skip; names the file, the row and the field.
        """
        if self.on_bad_row == OnBadRow.error:
            where = f"{rows[0].file}, {rows[0].position}"
            more = f" (with {len(rows) - 1} more rows of its group)" if len(rows) > 1 else ""
            raise UserError(
                f"bad record in {where}, field {error.field}{more}",
                got=error.got,
                do=f"{error.hint}; or on_bad_row=skip, which counts and lists such rows",
            )
        kind = re.sub(r"\[\d+\]|\.\d+", "", error.field)
        self._count(rows, f"bad {kind}", error.field, f"{error.got}; {error.hint}")

    def _count(self, rows: "list[Located]", reason: str, at: str, why: str) -> None:
        room = max(0, EXAMPLES_EACH - self.dropped[reason])
        self.dropped[reason] += len(rows)
        self.examples += [
            Dropped(file=row.file, position=row.position, field=at, why=why) for row in rows[:room]
        ]
