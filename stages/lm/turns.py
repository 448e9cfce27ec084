"""Which tokens of a conversation the assistant says, for templates without generation tags.

The template is rendered up to each of the assistant's turns: where that text ends, the turn begins.
Character offsets of the tokenizer then tell which tokens have a part in it.
"""

from typing import TYPE_CHECKING

from stages.contracts import UserError
from stages.lm.chat import render_prompt
from stages.records.schemas import Message

if TYPE_CHECKING:
    from transformers import PreTrainedTokenizerBase

Span = tuple[int, int]  # of characters, the second one excluded


def encode_turns(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message]
) -> tuple[list[int], list[bool]]:
    """Token ids of a prompt, as `encode_prompt` has them; which of them the assistant said.

    An EOS that the template writes after a turn belongs to it. A token that a turn shares with what
    stands beside it counts as said.

    Raises:
        UserError: the template does not show the turns as they were said.
    """
    text = render_prompt(tokenizer, messages)
    spans = answer_spans(tokenizer, messages, text)
    encoded = tokenizer(text, add_special_tokens=False, return_offsets_mapping=True)
    said = [
        any(start < last and first < stop for start, stop in spans)
        for first, last in encoded["offset_mapping"]
    ]
    return [int(token) for token in encoded["input_ids"]], said


def answer_spans(
    tokenizer: "PreTrainedTokenizerBase", messages: list[Message], text: str
) -> list[Span]:
    """Where in `text`, the whole prompt, the assistant's turns stand."""
    turns = [turn for turn, message in enumerate(messages) if message["role"] == "assistant"]
    return [_span(tokenizer, messages[: turn + 1], text) for turn in turns]


def _span(tokenizer: "PreTrainedTokenizerBase", upto: list[Message], text: str) -> Span:
    *before, answer = upto
    said = answer["content"].strip()
    start = text.find(said, len(render_prompt(tokenizer, before))) if before else -1
    shown = start >= 0 and text[:start].startswith(render_prompt(tokenizer, before))
    if not shown:
        raise UserError(
            "loss_on=assistant: the chat template does not show an earlier turn as it was said",
            got=repr(answer["content"][:80]),
            do="set loss_on=completion, or mend the template",
        )
    stop = start + len(said)
    end = str(tokenizer.eos_token)
    after = text[stop:].lstrip()
    return start, (text.index(end, stop) + len(end) if after.startswith(end) else stop)
