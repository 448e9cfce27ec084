"""Instructions with an answer: tatsu-lab/alpaca and databricks/databricks-dolly-15k."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Demonstration


@dataclass(kw_only=True)
class Alpaca(Adapter):
    """`instruction`, `input` (may be empty) and `output`; a few outputs are empty."""

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The input follows the instruction after a blank line."""
        return rows.each(lambda row: _answered(row, "instruction", "input", "output"))


@dataclass(kw_only=True)
class Dolly(Adapter):
    """`instruction`, `context` (may be empty), `response` and `category`.

    category: of the rows to keep, such as open_qa; all if empty.
    """

    category: str = ""

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The context follows the instruction after a blank line."""
        return rows.each(self._demonstration)

    def _demonstration(self, row: Fields) -> Demonstration:
        if self.category and row.text("category") != self.category:
            raise SkipRow("another category")
        return _answered(row, "instruction", "context", "response")


def _answered(row: Fields, instruction: str, extra: str, response: str) -> Demonstration:
    said, more = row.said(instruction), row.text_or_none(extra) or ""
    if not row.text(response).strip():
        raise SkipRow("an empty response")
    content = f"{said}\n\n{more}" if more.strip() else said
    return Demonstration(prompt=[{"role": "user", "content": content}], response=row.text(response))
