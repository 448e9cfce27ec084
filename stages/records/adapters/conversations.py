"""Conversations: `messages` of {role, content}, or ShareGPT's `conversations` of {from, value}."""

from collections.abc import Iterator
from dataclasses import dataclass

from stages.records.adapter import Adapter, Rows
from stages.records.fields import Fields
from stages.records.rows import SkipRow
from stages.records.schemas import Demonstration, Message, Prompt


@dataclass(kw_only=True)
class Conversations(Adapter):
    """Demonstrations and prompts from a list of turns.

    every_turn: one demonstration for each answer, with all turns before it as its prompt;
    otherwise the last answer alone.
    """

    every_turn: bool = False

    def demonstrations(self, rows: Rows) -> Iterator[Demonstration]:
        """The last answer of a conversation, or all of them."""
        return rows.each(self._demonstrations)

    def prompts(self, rows: Rows) -> Iterator[Prompt]:
        """A conversation up to its last turn of the user's."""
        return rows.each(self._prompt)

    def _demonstrations(self, row: Fields) -> list[Demonstration]:
        turns = _turns(row)
        answers = [
            index
            for index in range(1, len(turns))
            if turns[index]["role"] == "assistant" and turns[index - 1]["role"] == "user"
        ]
        if not answers:
            raise SkipRow("a conversation without an answer")
        if answers[-1] != len(turns) - 1:
            row.leave_out("turns after the last answer")
        chosen = answers if self.every_turn else answers[-1:]
        spoken = [index for index in chosen if turns[index]["content"].strip()]
        if not spoken:
            raise SkipRow("an empty response")
        if len(spoken) < len(chosen):
            row.leave_out("an empty response")
        return [
            Demonstration(prompt=turns[:index], response=turns[index]["content"])
            for index in spoken
        ]

    def _prompt(self, row: Fields) -> Prompt:
        turns = _turns(row)
        while turns and turns[-1]["role"] != "user":
            turns = turns[:-1]
        if not turns:
            raise SkipRow("a conversation without a user's turn")
        return Prompt(prompt=turns)


def _turns(row: Fields) -> list[Message]:
    """The turns from the first of the user's on, after a system message if there is one."""
    turns = row.messages("messages" if not row.given("conversations") else "conversations")
    system = [turn for turn in turns[:1] if turn["role"] == "system"]
    rest = turns[len(system) :]
    while rest and rest[0]["role"] == "assistant":
        row.leave_out("an assistant's turn before the first user's")
        rest = rest[1:]
    return [*system, *rest]
