"""Any table with named columns: `columns` says which of them holds which field of the record.

A demonstration: prompt (a text or messages; `input` follows it after a blank line, `system` stands
before it) and response, or messages whose last turn is the response. A comparison: chosen and
rejected, or completions with ranks (the lowest is best) or scores (the highest is). A prompt:
prompt or messages. A text: text, or a demonstration's turns. What is not mapped is read from a
column of its own name.
"""

from collections.abc import Iterator
from dataclasses import dataclass, field, replace

from stages.contracts import UserError
from stages.records.adapter import Adapter, Rows, as_document
from stages.records.comparing import dense_ranks, ranks_of_scores, two_responses
from stages.records.fields import Fields
from stages.records.messages import last_response
from stages.records.schemas import Comparison, Demonstration, Message, Prompt, Text

FIELDS = (
    *("prompt", "input", "system", "messages", "response", "user", "labeler", "labeler_group"),
    *("chosen", "rejected", "completions", "ranks", "scores", "source", "margin", "weight"),
    *("subset", "text"),
)


@dataclass(kw_only=True)
class Generic(Adapter):
    """Columns by name; nothing is guessed."""

    columns: dict[str, str] = field(default_factory=dict)

    def __post_init__(self) -> None:
        for name in self.columns:
            if name not in FIELDS:
                raise UserError(
                    f"columns.{name} is no field of a record",
                    got=f"{name}: {self.columns[name]}",
                    do=f"one of {', '.join(FIELDS)}",
                )

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """Prompt and response, or messages."""
        return rows.each(self._demonstration)

    def comparisons(self, rows: Rows) -> Iterator[Comparison]:
        """Chosen and rejected, or completions."""
        return rows.each(self._comparison)

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """Prompt, or messages up to a turn of the user's."""
        return rows.each(self._prompt)

    def texts(self, rows: Rows) -> Iterator[Text]:
        """Text; of a row without it, the turns of its demonstration."""
        return rows.each(self._text)

    def _text(self, row: Fields) -> Text:
        answered = self._has(row, "response") or self._has(row, "messages")
        if answered and not self._has(row, "text"):
            return as_document(self._demonstration(row))
        return Text(text=row.text(self._needed(row, "text")))

    def _column(self, name: str) -> str:
        return self.columns.get(name, name)

    def _needed(self, row: Fields, name: str) -> str:
        """The column that must hold a field; one that is neither there nor mapped can be mapped."""
        column = self._column(name)
        if name not in self.columns and row.missing(column):
            here = ", ".join(row.values) or "none"
            raise row.error(name, f"missing; fields here: {here}", _map(name))
        return column

    def _has(self, row: Fields, name: str) -> bool:
        return name in self.columns or row.given(name)

    def _maybe(self, row: Fields, name: str) -> str | None:
        return row.text(self.columns[name]) if name in self.columns else row.text_or_none(name)

    def _demonstration(self, row: Fields) -> Demonstration:
        if "prompt" not in self.columns and self._has(row, "messages"):
            column = self._column("messages")
            prompt, response = last_response(row.messages(column), column)
        else:
            prompt, response = self._turns(row), row.said(self._needed(row, "response"))
        return Demonstration(
            prompt=prompt,
            response=response,
            user=self._maybe(row, "user"),
            labeler=self._maybe(row, "labeler"),
        )

    def _prompt(self, row: Fields) -> Prompt:
        if "prompt" not in self.columns and self._has(row, "messages"):
            turns = row.messages(self._column("messages"))
            prompt = turns[:-1] if turns and turns[-1]["role"] == "assistant" else turns
        else:
            prompt = self._turns(row)
        return Prompt(prompt=prompt, user=self._maybe(row, "user"))

    def _turns(self, row: Fields) -> list[Message]:
        turns = row.prompt(self._needed(row, "prompt"))
        system, extra = self._maybe(row, "system"), self._maybe(row, "input")
        if extra and extra.strip():
            last = turns[-1] | {"content": f"{turns[-1]['content']}\n\n{extra}"}
            turns = [*turns[:-1], last]
        return [{"role": "system", "content": system}, *turns] if system else turns

    def _comparison(self, row: Fields) -> Comparison:
        made = self._ranked(row) if self._has(row, "completions") else self._pair(row)
        return replace(
            made,
            weight=row.number(self._column("weight")) if self._has(row, "weight") else 1.0,
            user=self._maybe(row, "user"),
            labeler=self._maybe(row, "labeler"),
            labeler_group=self._maybe(row, "labeler_group"),
            subset=self._maybe(row, "subset"),
        )

    def _ranked(self, row: Fields) -> Comparison:
        completions = row.texts(self._column("completions"))
        for index, text in enumerate(completions):
            _check_said(row, f"{self._column('completions')}.{index}", text)
        scores = row.numbers(self._column("scores")) if self._has(row, "scores") else None
        if scores is None or self._has(row, "ranks"):
            ranks = dense_ranks(row.numbers(self._column("ranks")))
        else:
            ranks = ranks_of_scores(scores)
        named = self._has(row, "source")
        return Comparison(
            prompt=self._turns(row),
            completions=completions,
            source=row.texts(self._column("source")) if named else ["unknown"] * len(completions),
            finished=[True] * len(completions),
            ranks=ranks,
            scores=scores,
        )

    def _pair(self, row: Fields) -> Comparison:
        prompt, chosen, rejected = two_responses(
            row,
            self._needed(row, "chosen"),
            self._needed(row, "rejected"),
            self._column("prompt") if self._has(row, "prompt") else None,
        )
        _check_said(row, self._column("chosen"), chosen)
        _check_said(row, self._column("rejected"), rejected)
        margin = row.number(self._column("margin")) if self._has(row, "margin") else None
        return Comparison(
            prompt=prompt,
            completions=[chosen, rejected],
            source=["chosen", "rejected"],
            finished=[True, True],
            ranks=[1, 2],
            pairs=None if margin is None else [(0, 1, margin)],
        )


def _map(name: str) -> str:
    said = "columns={completions: NAME, ranks: NAME} or " if name == "chosen" else ""
    return f"say which column it is, {said}columns={{{name}: NAME}}"


def _check_said(row: Fields, name: str, text: str) -> None:
    """An empty completion is no answer that anybody judged; formats known for them count them."""
    if not text.strip():
        raise row.error(name, "an empty completion", "every completion needs a text")
