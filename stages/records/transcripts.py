"""Transcripts of Anthropic's form: `\\n\\nHuman: ...\\n\\nAssistant: ...`."""

import re
from itertools import takewhile

from stages.records.schemas import Message, RecordError

ASSISTANT = "\n\nAssistant:"
_TURN = re.compile(r"\n\n(Human|Assistant):")


def turns(transcript: str, field: str) -> list[Message]:
    """The turns of a transcript that starts with one.

    Raises:
        RecordError: something stands before the first turn.
    """
    start, *rest = _TURN.split("\n\n" + transcript.lstrip())
    if start.strip() or not rest:
        raise RecordError(field, repr(transcript[:40]), r"a transcript: \n\nHuman: ...")
    roles = {"Human": "user", "Assistant": "assistant"}
    return [
        {"role": roles[who], "content": said.strip()}
        for who, said in zip(rest[::2], rest[1::2], strict=True)
    ]


def split_pair(chosen: str, rejected: str) -> tuple[str, str, str] | None:
    """The shared start up to its last assistant's turn, and how each goes on; None without one.

    The responses may share their first words, so the prompt ends where the turn starts.
    """
    both = zip(chosen, rejected, strict=False)
    same = sum(1 for _ in takewhile(lambda pair: pair[0] == pair[1], both))
    start = chosen[:same].rfind(ASSISTANT)
    if start < 0:
        return None
    rest = start + len(ASSISTANT)
    return chosen[:start], chosen[rest:].strip(), rejected[rest:].strip()
