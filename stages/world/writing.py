"""Instructions to write a sentence: about given things, or in a given mood."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from random import Random
from typing import ClassVar, Self

from stages.world.grammar import (
    MOOD_PATTERNS,
    PLACE_PATTERNS,
    PLAIN_PATTERNS,
    is_sentence,
    write_sentence,
)
from stages.world.parts import other, weighted
from stages.world.words import ANIMALS, MOODS, PLACES, THINGS


@dataclass(frozen=True)
class Story:
    """A sentence about an animal and a thing, and sometimes a place."""

    animal: str
    thing: str
    place: str | None
    asked: ClassVar = re.compile(
        r"(?:write|tell me) about the (\w+) and the (\w+)(?: near the (\w+))? \."
    )

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Half of the requests name a place."""
        place = rng.choice(PLACES) if rng.random() < 0.5 else None
        return cls(rng.choice(ANIMALS), rng.choice(THINGS), place)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the words are an animal, a thing and a place."""
        animal, thing, place = match.groups()
        known = animal in ANIMALS and thing in THINGS and (place is None or place in PLACES)
        return cls(animal, thing, place) if known else None

    def ask(self, rng: Random) -> str:
        """`write about the fox and the kite near the park .`"""
        where = f" near the {self.place}" if self.place else ""
        opening = rng.choice(("write", "tell me"))
        return f"{opening} about the {self.animal} and the {self.thing}{where} ."

    def answer(self, rng: Random) -> list[str]:
        """Any sentence of the grammar that names all of them."""
        return write_sentence(rng, self._given(), self._patterns())

    def flaw(self, rng: Random) -> list[str]:
        """One of the named is exchanged."""
        given = self._given()
        given.pop(rng.choice(sorted(given)))
        return write_sentence(rng, given, self._patterns())

    def quality(self, words: Sequence[str]) -> float:
        """Grammar, and each of the named."""
        named = [(1, word in words) for word in self._given().values()]
        return weighted((len(named), is_sentence(words)), *named)

    def _given(self) -> dict[str, str]:
        place = {"PLACE": self.place} if self.place else {}
        return {"ANIMAL": self.animal, "THING": self.thing, **place}

    def _patterns(self) -> tuple[str, ...]:
        return PLACE_PATTERNS if self.place else PLAIN_PATTERNS + PLACE_PATTERNS


@dataclass(frozen=True)
class Mood:
    """A happy, sad or angry sentence about an animal and a thing."""

    mood: str
    animal: str
    thing: str
    asked: ClassVar = re.compile(
        r"(?:write|give me) one (\w+) line about the (\w+) and the (\w+) \."
    )

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Any mood, animal and thing."""
        return cls(rng.choice(sorted(MOODS)), rng.choice(ANIMALS), rng.choice(THINGS))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the words are a mood, an animal and a thing."""
        mood, animal, thing = match.groups()
        known = mood in MOODS and animal in ANIMALS and thing in THINGS
        return cls(mood, animal, thing) if known else None

    def ask(self, rng: Random) -> str:
        """`write one sad line about the owl and the bell .`"""
        opening = rng.choice(("write", "give me"))
        return f"{opening} one {self.mood} line about the {self.animal} and the {self.thing} ."

    def answer(self, rng: Random) -> list[str]:
        """A sentence with a verb of that mood."""
        return self._write(rng, self.mood, self.animal, self.thing)

    def flaw(self, rng: Random) -> list[str]:
        """Another mood, another animal or thing."""
        kind = rng.choice(("mood", "animal", "thing"))
        mood = other(rng, sorted(MOODS), self.mood) if kind == "mood" else self.mood
        animal = other(rng, ANIMALS, self.animal) if kind == "animal" else self.animal
        thing = other(rng, THINGS, self.thing) if kind == "thing" else self.thing
        return self._write(rng, mood, animal, thing)

    def quality(self, words: Sequence[str]) -> float:
        """Grammar, the mood's verb and no other mood's, the animal, the thing."""
        moods = {mood for mood, verbs in MOODS.items() if any(verb in words for verb in verbs)}
        return weighted(
            (2, is_sentence(words)),
            (2, moods == {self.mood}),
            (1, self.animal in words),
            (1, self.thing in words),
        )

    @staticmethod
    def _write(rng: Random, mood: str, animal: str, thing: str) -> list[str]:
        given = {"ANIMAL": animal, "THING": thing, "FELT": rng.choice(MOODS[mood])}
        return write_sentence(rng, given, MOOD_PATTERNS)
