"""Instructions to copy: a word several times, and a fact out of the prompt."""

import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from random import Random
from typing import ClassVar, Self

from stages.world.grammar import COLOR_FACT, PLACE_FACT, is_sentence
from stages.world.parts import items_of, other, weighted
from stages.world.words import ANIMALS, COLORS, NUMBERS, PLACES, THINGS


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
    """A question about one of two facts: a thing's colour, or where an animal is."""

    thing: str
    color: str
    animal: str
    place: str
    asks_color: bool
    asked: ClassVar = re.compile(
        r"the (\w+) is (\w+) \. the (\w+) is near the (\w+) \. "
        r"(?:what color is the (\w+)|where is the (\w+)) \?"
    )

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Any thing, colour, animal and place, and either question."""
        thing, color = rng.choice(THINGS), rng.choice(COLORS)
        return cls(thing, color, rng.choice(ANIMALS), rng.choice(PLACES), rng.random() < 0.5)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the two facts are of these kinds and the question is about one of them."""
        thing, color, animal, place, asked_thing, asked_animal = match.groups()
        known = thing in THINGS and color in COLORS and animal in ANIMALS and place in PLACES
        if not known or (asked_thing, asked_animal) not in ((thing, None), (None, animal)):
            return None
        return cls(thing, color, animal, place, asked_animal is None)

    def ask(self, rng: Random) -> str:  # noqa: ARG002  # there is only one wording
        """`the cup is red . the owl is near the river . where is the owl ?`"""
        question = (
            f"what color is the {self.thing}" if self.asks_color else f"where is the {self.animal}"
        )
        return " ".join([*self._color_fact(), *self._place_fact(), question, "?"])

    def answer(self, rng: Random) -> list[str]:  # noqa: ARG002  # there is only one
        """`the owl is near the river .`"""
        return self._color_fact() if self.asks_color else self._place_fact()

    def flaw(self, rng: Random) -> list[str]:
        """The other fact, or one that was never told."""
        if rng.random() < 0.5:
            return self._place_fact() if self.asks_color else self._color_fact()
        wrong = replace(
            self, color=other(rng, COLORS, self.color), place=other(rng, PLACES, self.place)
        )
        return wrong.answer(rng)

    def quality(self, words: Sequence[str]) -> float:
        """Of whom it speaks, that it says what was told of it and no more, and its form."""
        entity, value = (self.thing, self.color) if self.asks_color else (self.animal, self.place)
        told = {word for word in words if word in COLORS + PLACES}
        form = COLOR_FACT if self.asks_color else PLACE_FACT
        return weighted(
            (1, entity in words), (2, told == {value}), (2, is_sentence(words, (form,)))
        )

    def _color_fact(self) -> list[str]:
        return ["the", self.thing, "is", self.color, "."]

    def _place_fact(self) -> list[str]:
        return ["the", self.animal, "is", "near", "the", self.place, "."]
