"""Conversations as public data sets write them, and where the response starts."""

from typing import TYPE_CHECKING

from stages.records.schemas import Message, RecordError

if TYPE_CHECKING:
    from stages.records.fields import Fields

ROLE_NAMES = {
    "system": "system",
    "user": "user",
    "human": "user",
    "prompter": "user",
    "assistant": "assistant",
    "gpt": "assistant",
    "chatgpt": "assistant",
    "bot": "assistant",
    "model": "assistant",
}


def to_messages(turn: "Fields") -> Message:
    """One turn, {role, content} or {from, value}, with the roles of `stages.records.schemas`."""
    named, held = ("role", "content") if turn.given("role") else ("from", "value")
    if named == "from" and not turn.given("from"):
        named, held = "role", "content"  # so that the error names the usual fields
    role = turn.text(named).lower()
    if role not in ROLE_NAMES:
        raise turn.error(named, repr(role), f"one of {', '.join(ROLE_NAMES)}")
    return {"role": ROLE_NAMES[role], "content": turn.text(held)}


def last_response(messages: list[Message], field: str) -> tuple[list[Message], str]:
    """The turns before the last one, which must be the assistant's, and its text."""
    if not messages or messages[-1]["role"] != "assistant":
        last = messages[-1]["role"] if messages else "no turn"
        raise RecordError(field, f"last turn: {last}", "the last turn is the assistant's")
    return messages[:-1], messages[-1]["content"]


def common_prompt(
    chosen: list[Message], rejected: list[Message]
) -> tuple[list[Message], list[Message], list[Message]]:
    """The turns that both conversations start with, and what is left of each."""
    shared = 0
    for one, other in zip(chosen, rejected, strict=False):
        if one != other:
            break
        shared += 1
    return chosen[:shared], chosen[shared:], rejected[shared:]
