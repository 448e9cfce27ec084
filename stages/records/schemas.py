"""The five tables that flow between the steps. No torch here.

A prompt is a list of messages, `{"role": ..., "content": ...}`, ending with the user's turn. A pair
of responses is the case K=2 of a ranking. A record checks itself: `RecordError` names the field.
"""

import math
from dataclasses import dataclass

Message = dict[str, str]
ROLES = ("system", "user", "assistant")


class RecordError(ValueError):
    """A record that breaks its schema: the field, what was found, a hint."""

    def __init__(self, field: str, got: str, hint: str) -> None:
        super().__init__(field, got, hint)
        self.field, self.got, self.hint = field, got, hint


@dataclass(kw_only=True)
class Demonstration:
    """A prompt and the response a labeler wrote for it."""

    prompt: list[Message]
    response: str
    user: str | None = None
    labeler: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        if not self.response.strip():
            raise RecordError("response", "an empty text", "a demonstration needs a response")


@dataclass(kw_only=True)
class Prompt:
    """A prompt to sample responses for; `user` keeps one person's prompts in one split."""

    prompt: list[Message]
    user: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)


@dataclass(kw_only=True)
class Completions:
    """K sampled responses to one prompt. finished[k]: it ended in EOS, it was not cut."""

    prompt: list[Message]
    completions: list[str]
    source: list[str]
    finished: list[bool]
    user: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_lengths(self, "completions", ("source", "finished"))


@dataclass(kw_only=True)
class Comparison:
    """A labeler's ranking of K completions: 1 is best, equal ranks are ties.

    scores[K]: a known quality, where there is one (gold). pairs: (better, worse, margin) triples
    that replace what the ranks imply. weight: of this comparison in the loss. subset: the part of a
    benchmark that it belongs to.
    """

    prompt: list[Message]
    completions: list[str]
    source: list[str]
    finished: list[bool]
    ranks: list[int]
    scores: list[float] | None = None
    pairs: list[tuple[int, int, float]] | None = None
    weight: float = 1.0
    user: str | None = None
    labeler: str | None = None
    labeler_group: str | None = None
    subset: str | None = None

    def __post_init__(self) -> None:
        check_prompt(self.prompt)
        check_lengths(self, "completions", ("source", "finished", "ranks"))
        if len(self.completions) < 2:
            raise RecordError(
                "completions", f"K={len(self.completions)}", "a comparison needs two or more"
            )
        if self.scores is not None:
            check_lengths(self, "completions", ("scores",))
            if not all(math.isfinite(score) for score in self.scores):
                raise RecordError("scores", str(self.scores), "every score is a finite number")
        for better, worse, _ in self.pairs or []:
            if better == worse or not all(0 <= i < len(self.completions) for i in (better, worse)):
                raise RecordError(
                    "pairs", f"({better}, {worse})", "two different completions, counted from 0"
                )


@dataclass(kw_only=True)
class Text:
    """A document of pretraining text."""

    text: str

    def __post_init__(self) -> None:
        if not self.text.strip():
            raise RecordError("text", "an empty text", "drop empty documents")


Record = Demonstration | Prompt | Completions | Comparison | Text


def check_prompt(prompt: list[Message]) -> None:
    """A prompt is a non-empty list of messages that ends with the user's turn."""
    if not prompt:
        raise RecordError(
            "prompt", "no message", "a list of {role, content} ending with the user's turn"
        )
    for turn, message in enumerate(prompt):
        if set(message) != {"role", "content"}:
            raise RecordError(
                f"prompt[{turn}]", f"keys {sorted(message)}", "each message is {role, content}"
            )
        if message["role"] not in ROLES:
            raise RecordError(
                f"prompt[{turn}].role", repr(message["role"]), f"one of {', '.join(ROLES)}"
            )
        if not isinstance(message["content"], str):
            raise RecordError(
                f"prompt[{turn}].content", type(message["content"]).__name__, "a text"
            )
    if prompt[-1]["role"] != "user":
        raise RecordError(
            "prompt", f"last role {prompt[-1]['role']!r}", "the last message is the user's"
        )


def check_lengths(record: Completions | Comparison, against: str, fields: tuple[str, ...]) -> None:
    """Every per-completion list has one entry a completion."""
    expected = len(getattr(record, against))
    for name in fields:
        found = len(getattr(record, name))
        if found != expected:
            raise RecordError(
                name, f"{found} entries", f"one for each of the {expected} completions"
            )
