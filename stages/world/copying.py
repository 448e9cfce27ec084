"""Instructions to copy: a word several times, and a fact out of the prompt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from stages.world.parts import items_of, other, slip, weighted
from stages.world.words import ANIMALS, COLORS, NUMBERS, THINGS


@dataclass(frozen=True)
class Repeat:
    """A word, said a number of times."""

    word: str
    times: int
    asked: ClassVar = re.compile(r"(?:say|repeat) (\w+) (\w+) times \.")

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """An animal or a thing, two to five times."""
        return cls(rng.choice(ANIMALS + THINGS), rng.randint(2, 5))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the words are an animal or a thing, and a number."""
        word, number = match.groups()
        if word not in ANIMALS + THINGS or number not in NUMBERS[1:]:
            return None
        return cls(word, NUMBERS.index(number))

    def ask(self, rng: Random) -> str:
        """`say kite three times .`"""
        return f"{rng.choice(('say', 'repeat'))} {self.word} {NUMBERS[self.times]} times ."

    def answer(self, rng: Random) -> list[str]:  # noqa: ARG002  # there is only one
        """`kite kite kite .`"""
        return [self.word] * self.times + ["."]

    def flaw(self, rng: Random) -> list[str]:
        """Too often, too seldom, or another word among them."""
        if rng.random() < 0.6:
            return [self.word] * max(1, self.times + rng.choice((-1, 1))) + ["."]
        words = self.answer(rng)
        words[rng.randrange(self.times)] = other(rng, ANIMALS + THINGS, self.word)
        return words

    def quality(self, words: Sequence[str]) -> float:
        """How often, nothing else, and a full stop at the end only."""
        items = items_of(words)
        return weighted(
            (2, len(items) == self.times),
            (2, set(items) == {self.word}),
            (1, bool(items) and list(words) == [*items, "."]),
        )


@dataclass(frozen=True)
class Answer:
    """Which of two things, of which the prompt tells, has a colour."""

    thing: str
    color: str
    other_thing: str
    other_color: str
    asked_first: bool
    asked: ClassVar = re.compile(
        r"the (\w+) is (\w+) \. the (\w+) is (\w+) \. (?:what|which) is (\w+) \?"
    )

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Two different things of different colours, the asked one told first or second."""
        thing, other_thing = rng.sample(THINGS, 2)
        color, other_color = rng.sample(COLORS, 2)
        return cls(thing, color, other_thing, other_color, rng.random() < 0.5)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless two things of two colours are told, and the question names one of these."""
        first, first_color, second, second_color, color = match.groups()
        known = {first, second} <= set(THINGS) and {first_color, second_color} <= set(COLORS)
        if not known or first == second or first_color == second_color:
            return None
        if color == first_color:
            return cls(first, first_color, second, second_color, True)
        return (
            cls(second, second_color, first, first_color, False) if color == second_color else None
        )

    def ask(self, rng: Random) -> str:
        """`the cup is red . the hat is blue . what is blue ?`"""
        facts = [
            f"the {self.thing} is {self.color} .",
            f"the {self.other_thing} is {self.other_color} .",
        ]
        told = facts if self.asked_first else facts[::-1]
        return f"{' '.join(told)} {rng.choice(('what', 'which'))} is {self.color} ?"

    def answer(self, rng: Random) -> list[str]:  # noqa: ARG002  # there is only one
        """`the blue hat .`"""
        return self._say(self.color, self.thing)

    def flaw(self, rng: Random) -> list[str]:
        """The other thing, any other, the other thing with its colour, or a slip."""
        kind = rng.choice(("mixed", "any", "other", "slip"))
        if kind == "slip":
            return slip(rng, self.answer(rng))
        if kind == "other":
            return self._say(self.other_color, self.other_thing)
        thing = self.other_thing if kind == "mixed" else other(rng, THINGS, self.thing)
        return self._say(self.color, thing)

    def quality(self, words: Sequence[str]) -> float:
        """The thing and no other, the colour and no other, and the form."""
        colors = {word for word in words if word in COLORS}
        things = {word for word in words if word in THINGS}
        form = len(words) == 4 and [words[0], words[3]] == ["the", "."]
        return weighted(
            (2, things == {self.thing}),
            (1, colors == {self.color}),
            (1, form and words[1] in COLORS and words[2] in THINGS),
        )

    @staticmethod
    def _say(color: str, thing: str) -> list[str]:
        return ["the", color, thing, "."]
