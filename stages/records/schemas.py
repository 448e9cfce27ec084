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
        if not (math.isfinite(self.weight) and self.weight >= 0):
            raise RecordError("weight", str(self.weight), "a finite number, 0 or more")
        check_texts(self)
        if self.pairs is None:
            check_ranks(self)
        else:
            check_pairs(self.pairs, self.completions)

    @property
    def all_tied(self) -> bool:
        """Whether nothing is better than anything else; such a comparison teaches nothing."""
        return not self.pairs if self.pairs is not None else len(set(self.ranks)) == 1


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


def check_texts(comparison: Comparison) -> None:
    """Completions are texts; an empty one ended at once, so it must have finished."""
    for k, (text, finished) in enumerate(
        zip(comparison.completions, comparison.finished, strict=True)
    ):
        if not isinstance(text, str):
            raise RecordError(f"completions[{k}]", type(text).__name__, "a text")
        if not text and not finished:
            hint = "leave it out, or mark it as finished"
            raise RecordError(f"completions[{k}]", "an empty text that did not end", hint)


def check_ranks(comparison: Comparison) -> None:
    """Ranks count from 1, and the same completion has one of them."""
    seen: dict[tuple[str, bool], int] = {}
    rows = zip(comparison.completions, comparison.finished, comparison.ranks, strict=True)
    for k, (text, finished, rank) in enumerate(rows):
        if rank < 1:
            raise RecordError(f"ranks[{k}]", repr(rank), "whole numbers from 1, the best")
        if seen.setdefault((text, finished), rank) != rank:
            got = f"ranks {seen[text, finished]} and {rank} of {text!r}"
            raise RecordError("ranks", got, "one completion has one rank: tie them, or drop one")


def check_pairs(pairs: list[tuple[int, int, float]], completions: list[str]) -> None:
    """Each pair names two completions, and no other pair says the reverse."""
    for better, worse, margin in pairs:
        both = f"({better}, {worse})"
        if better == worse or not all(0 <= i < len(completions) for i in (better, worse)):
            raise RecordError("pairs", both, "two different completions, counted from 0")
        if not math.isfinite(margin):
            raise RecordError("pairs", f"margin {margin} of {both}", "a finite number")
    said = {(better, worse) for better, worse, _ in pairs}
    for better, worse in sorted(said):
        if (worse, better) in said:
            raise RecordError("pairs", f"({better}, {worse}) and the reverse", "one of the two")


def check_lengths(record: Completions | Comparison, against: str, fields: tuple[str, ...]) -> None:
    """Every per-completion list has one entry a completion."""
    expected = len(getattr(record, against))
    for name in fields:
        found = len(getattr(record, name))
        if found != expected:
            raise RecordError(
                name, f"{found} entries", f"one for each of the {expected} completions"
            )
