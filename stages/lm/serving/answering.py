"""One model that answers several requests at once, each on a thread of its own.

Noise is a function of the request's seed: what others ask at the same time changes nothing.
Requests are not batched: where that counts, vLLM serves the exported folder.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

from stages.lm.rollout import Sampling
from stages.lm.serving.protocol import RequestError
from stages.lm.streaming import Speaker
from stages.lm.tokens import decode_response, encode_prompt, encode_text
from stages.records.schemas import Message, RecordError, check_prompt

UNFINISHED = "\ufffd"  # what a decoder writes for a character of which bytes are to come


@dataclass(frozen=True, kw_only=True)
class Task:
    """What to generate: token ids, how, until which texts, from which noise."""

    prompt: list[int]
    sampling: Sampling
    stops: Sequence[str]
    seed: int


@dataclass
class Answer:
    """What came of a task. finish: "stop" at an end or a stop text, "length" at the limit."""

    tokens: int = 0
    finish: str = "length"
    text: str = ""


class Answerer:
    """The model in a folder. max_length: tokens of prompt and answer together."""

    def __init__(self, folder: Path, *, max_length: int) -> None:
        self.speaker, self.max_length = Speaker(folder), max_length

    def encode_chat(self, messages: list[Message]) -> list[int]:
        """Token ids by the chat template.

        Raises:
            RequestError: a conversation that does not end with the user, or that it cannot write.
        """
        from jinja2 import TemplateError

        try:
            check_prompt(messages)
            return encode_prompt(self.speaker.tokenizer, messages)
        except RecordError as error:
            raise RequestError(400, f"{error.got}: {error.hint}", param="messages") from None
        except TemplateError as error:
            raise RequestError(400, f"the chat template: {error}", param="messages") from None

    def encode_text(self, text: str) -> list[int]:
        """Token ids of a text, after BOS where the tokenizer has one.

        Raises:
            RequestError: there is nothing to go on with.
        """
        start = self.speaker.tokenizer.bos_token_id
        tokens = ([] if start is None else [int(start)]) + encode_text(self.speaker.tokenizer, text)
        if not tokens:
            raise RequestError(400, "the prompt is empty", param="prompt")
        return tokens

    def room(self, prompt: Sequence[int], asked: int | None, default: int) -> int:
        """How many tokens the answer may have.

        Raises:
            RequestError: prompt and answer do not fit.
        """
        left = self.max_length - len(prompt)
        if left < (asked or 1):
            raise RequestError(
                400,
                f"the prompt has {len(prompt)} tokens, {asked or 1} were asked for, and the model "
                f"was trained on {self.max_length} together",
                code="context_length_exceeded",
            )
        return asked or min(default, left)

    def pieces(self, task: Task, answer: Answer) -> Iterator[str]:
        """The answer's text, piece by piece; `answer` says what came of it once they have ended.

        A piece is held back while it may be the beginning of a stop text or of a character.
        """
        tokens: list[int] = []
        sent = 0
        for token in self.speaker.tokens(task.prompt, task.sampling, task.seed):
            tokens.append(token)
            answer.tokens = len(tokens)
            text = decode_response(self.speaker.tokenizer, tokens)
            end = first_stop(text, task.stops)
            if end is not None:
                answer.text, answer.finish = text[:end], "stop"
                break
            answer.text = text
            safe = len(text) - held_back(text, task.stops)
            if safe > sent:
                yield text[sent:safe]
                sent = safe
        else:
            answer.finish = "length" if len(tokens) == task.sampling.max_new_tokens else "stop"
        if len(answer.text) > sent:
            yield answer.text[sent:]


def first_stop(text: str, stops: Sequence[str]) -> int | None:
    """Where the first stop text begins; None if none is there."""
    found = [place for stop in stops if (place := text.find(stop)) >= 0]
    return min(found, default=None)


def held_back(text: str, stops: Sequence[str]) -> int:
    """Characters at the end that a later token may still change or cut off."""
    broken = len(text) - len(text.rstrip(UNFINISHED))
    begun = [
        length for stop in stops for length in range(1, len(stop)) if text.endswith(stop[:length])
    ]
    return max([broken, *begun])
