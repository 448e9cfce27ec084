"""What became of every row on its way to a split."""

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Generic

from stages.records.tables import R
from stages.step0_data.rules.views import prompt_text

EXAMPLES_EACH = 5  # rows shown for each reason
EXCERPT = 300  # characters of a prompt in an example


@dataclass(frozen=True, kw_only=True)
class Sourced(Generic[R]):
    """A record, the name of its source, and its split where the source says it."""

    record: R
    source: str = ""
    split: str | None = None


@dataclass(kw_only=True)
class Ledger:
    """What became of the rows.

    read == sum(kept.values()) + sum(dropped.values()). changed: rows that a rule rewrote.
    by_source: rows kept of each source. examples: the first rows dropped for each reason.
    """

    read: int = 0
    kept: Counter[str] = field(default_factory=Counter)
    dropped: Counter[str] = field(default_factory=Counter)
    changed: Counter[str] = field(default_factory=Counter)
    by_source: Counter[str] = field(default_factory=Counter)
    users: dict[str, int] = field(default_factory=dict)
    contaminated: Mapping[str, float] = field(default_factory=dict)
    examples: list[dict[str, str]] = field(default_factory=list)

    def drop(self, reason: str, row: Sourced[Any]) -> None:
        """Count one row, and keep it as an example if its reason has few."""
        self.dropped[reason] += 1
        if self.dropped[reason] <= EXAMPLES_EACH:
            excerpt = prompt_text(row.record)[:EXCERPT]
            self.examples.append({"reason": reason, "source": row.source, "prompt": excerpt})

    def metrics(self) -> dict[str, float]:
        """The figures of the artifact."""
        return {
            "rows_read": float(self.read),
            **{f"{split}_rows": float(rows) for split, rows in sorted(self.kept.items())},
            **{f"{split}_users": float(users) for split, users in self.users.items()},
            **{f"dropped_{reason}": float(rows) for reason, rows in sorted(self.dropped.items())},
            **{f"rows_{how}": float(rows) for how, rows in sorted(self.changed.items())},
            **{f"source_{name}_rows": float(n) for name, n in sorted(self.by_source.items())},
            **self.contaminated,
        }
