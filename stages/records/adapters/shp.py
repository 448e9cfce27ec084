"""stanfordnlp/SHP: two comments under a post, `labels` 1 where A was voted higher.

Rows of one post become one comparison of its comments, with the pairs that the rows say.
"""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.fields import Fields
from stages.records.grouping import Preference, joined
from stages.records.rows import SkipRow
from stages.records.schemas import Comparison


@dataclass(kw_only=True)
class Shp(Adapter):
    """Comparisons of K comments.

    min_score_ratio: votes of the better over those of the worse comment; Rafailov et al. (2023)
    train on pairs of at least 2.
    """

    min_score_ratio: float = 1.0

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """One comparison a post; this holds all rows until the last is read."""
        return rows.grouped(self._keyed, joined)

    def _keyed(self, row: Fields) -> tuple[str, Preference]:
        first = row.truth("labels")
        a, b = row.text("human_ref_A"), row.text("human_ref_B")
        if row.number("score_ratio") < self.min_score_ratio:
            raise SkipRow(f"score_ratio below {self.min_score_ratio}")
        if not a.strip() or not b.strip():
            raise SkipRow("a comment without text")
        if a == b:
            raise SkipRow("both comments are the same")
        better, worse = (a, b) if first else (b, a)
        prompt = row.prompt("history")
        return row.text("post_id"), Preference(prompt=prompt, better=better, worse=worse)
