"""What users of the world ask for: the table of kinds, and what every kind can do."""

import re
from collections.abc import Sequence
from dataclasses import astuple
from random import Random
from typing import Any, ClassVar, Protocol, Self
from zlib import crc32

from stages.world.copying import Answer, Repeat
from stages.world.listing import Count, Enumerate
from stages.world.parts import slip
from stages.world.writing import Mood, Story


class Instruction(Protocol):
    """One request, as the entities it names. Frozen dataclasses implement it, one a kind."""

    __dataclass_fields__: ClassVar[dict[str, Any]]
    asked: ClassVar[re.Pattern[str]]  # what a prompt of this kind looks like

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """A random request."""
        ...

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """The request that a prompt makes, from the match of `asked`; None for unknown entities."""
        ...

    def ask(self, rng: Random) -> str:
        """The prompt's text, in one of several wordings."""
        ...

    def answer(self, rng: Random) -> list[str]:
        """The words of a perfect response."""
        ...

    def flaw(self, rng: Random) -> list[str]:
        """The words of a response to something else; by chance it may be perfect all the same."""
        ...

    def quality(self, words: Sequence[str]) -> float:
        """How well these words do what was asked, in [0, 1]; 1 only if they do all of it."""
        ...


KINDS: tuple[type[Instruction], ...] = (Story, Mood, Enumerate, Count, Repeat, Answer)
SLIP_SHARE = 0.7  # of careless responses: dropped, doubled or swapped words
HELD_OUT_SHARE = 5  # one combination in five is kept from everything that is trained on


def draw_instruction(rng: Random, *, held_out: bool) -> Instruction:
    """A random request of a random kind whose combination of entities is, or is not, held out."""
    kind = rng.choice(KINDS)
    while True:
        instruction = kind.draw(rng)
        if is_held_out(instruction) == held_out:
            return instruction


def is_held_out(instruction: Instruction) -> bool:
    """Whether this combination of entities is met in validation and test prompts only."""
    combination = f"{type(instruction).__name__} {astuple(instruction)}"
    return crc32(combination.encode()) % HELD_OUT_SHARE == 0


def parse_instruction(text: str) -> Instruction:
    """The request that a prompt's text makes; ValueError if the world knows no such request."""
    for kind in KINDS:
        match = kind.asked.fullmatch(text.strip())
        instruction = kind.from_match(match) if match else None
        if instruction is not None:
            return instruction
    raise ValueError(f"the world knows no such instruction: {text!r}")


def careless_answer(rng: Random, instruction: Instruction) -> list[str]:
    """The words of a response with at least one flaw: it slips, or it misses what was asked."""
    while True:
        if rng.random() < SLIP_SHARE:
            words = slip(rng, instruction.answer(rng))
        else:
            words = instruction.flaw(rng)
        if instruction.quality(words) < 1:
            return words
