"""Text files (.txt, .md): a document for each file, paragraph or line."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.contracts import UserError
from stages.records.adapter import Adapter, Part, Rows
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Prompt, Text

UNITS = ("file", "paragraph", "line")


@dataclass(kw_only=True)
class PlainText(Adapter):
    """Documents to pretrain on, or prompts; blank lines part paragraphs.

    unit: file, paragraph or line is one document. A file is held in memory as a whole.
    """

    unit: str = "paragraph"

    def __post_init__(self) -> None:
        if self.unit not in UNITS:
            raise UserError("unit is unknown", got=self.unit, do=f"one of {', '.join(UNITS)}")

    def texts(self, rows: Rows) -> Iterator[Text]:
        """One a unit, without the blank lines around it."""
        places = _Places(self.unit)
        return rows.runs(places.parse, lambda parts: Text(text=_joined(parts)))

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """One a unit."""
        places = _Places(self.unit)
        return rows.runs(
            places.parse,
            lambda parts: Prompt(prompt=[{"role": "user", "content": _joined(parts)}]),
        )


class _Places:
    """Numbers the units as their lines come."""

    def __init__(self, unit: str) -> None:
        self.unit, self.paragraph = unit, 0

    def parse(self, row: Fields) -> tuple[tuple[str, int], str]:
        line, file, number = row.text("line"), row.text("file"), row.integer("number")
        if self.unit == "file":
            return (file, 0), line
        if not line.strip():
            self.paragraph += 1
            raise SkipRow("a blank line")
        return (file, number if self.unit == "line" else self.paragraph), line


def _joined(parts: list[Part[str]]) -> str:
    text = "".join(part.item for part in parts).replace("\r\n", "\n").strip("\n")
    if not text.strip():
        raise SkipRow("a document without text")
    return text
