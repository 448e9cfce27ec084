"""Instructions to list: members of a category, and numbers in order."""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from itertools import pairwise
from random import Random
from typing import ClassVar, Self

from stages.world.parts import enumerated, items_of, other, weighted
from stages.world.words import CATEGORIES, NUMBERS


@dataclass(frozen=True)
class Enumerate:
    """Some different members of a category, sometimes without one of them."""

    count: int
    category: str
    without: str | None
    asked: ClassVar = re.compile(r"(?:list|name) (\w+) (\w+)(?: but not (\w+))? \.")

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Two to four members; half of the requests exclude one."""
        category = rng.choice(sorted(CATEGORIES))
        without = rng.choice(CATEGORIES[category]) if rng.random() < 0.5 else None
        return cls(rng.randint(2, 4), category, without)

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the words are a number, a category and a member of it."""
        number, category, without = match.groups()
        if number not in NUMBERS[1:] or category not in CATEGORIES:
            return None
        if without is not None and without not in CATEGORIES[category]:
            return None
        return cls(NUMBERS.index(number), category, without)

    def ask(self, rng: Random) -> str:
        """`list three fruits but not plum .`"""
        exception = f" but not {self.without}" if self.without else ""
        opening = rng.choice(("list", "name"))
        return f"{opening} {NUMBERS[self.count]} {self.category}{exception} ."

    def answer(self, rng: Random) -> list[str]:
        """`pear , grape , lemon .`"""
        return enumerated(rng.sample(self._allowed(), self.count))

    def flaw(self, rng: Random) -> list[str]:
        """Too many or too few, repeated, foreign or excluded members."""
        members = rng.sample(self._allowed(), self.count)
        kind = rng.choice(("number", "number", "repeated", "foreign", "excluded"))
        if kind == "number":
            members = rng.sample(self._allowed(), max(1, self.count + rng.choice((-1, 1))))
        elif kind == "repeated":
            members[-1] = members[0]
        elif kind == "foreign":
            foreign = CATEGORIES[other(rng, sorted(CATEGORIES), self.category)]
            members[rng.randrange(self.count)] = rng.choice(foreign)
        elif kind == "excluded" and self.without:
            members[rng.randrange(self.count)] = self.without
        return enumerated(members)

    def quality(self, words: Sequence[str]) -> float:
        """Number, membership, no repetition or excluded member, commas and full stop."""
        items = items_of(words)
        known = bool(items) and set(items) <= set(CATEGORIES[self.category])
        fresh = bool(items) and len(set(items)) == len(items) and self.without not in items
        return weighted(
            (2, len(items) == self.count),
            (2, known),
            (2, fresh),
            (2, list(words) == enumerated(items)),
        )

    def _allowed(self) -> list[str]:
        return [member for member in CATEGORIES[self.category] if member != self.without]


@dataclass(frozen=True)
class Count:
    """The numbers from one to another."""

    start: int
    end: int
    asked: ClassVar = re.compile(r"(?:count|go) from (\w+) to (\w+) \.")

    @classmethod
    def draw(cls, rng: Random) -> Self:
        """Three to six numbers."""
        start = rng.randrange(len(NUMBERS) - 2)
        return cls(start, min(start + rng.randint(2, 5), len(NUMBERS) - 1))

    @classmethod
    def from_match(cls, match: re.Match[str]) -> Self | None:
        """None unless the words are two numbers, the smaller first."""
        first, last = match.groups()
        if first not in NUMBERS or last not in NUMBERS:
            return None
        start, end = NUMBERS.index(first), NUMBERS.index(last)
        return cls(start, end) if start < end else None

    def ask(self, rng: Random) -> str:
        """`count from three to six .`"""
        opening = rng.choice(("count", "go"))
        return f"{opening} from {NUMBERS[self.start]} to {NUMBERS[self.end]} ."

    def answer(self, rng: Random) -> list[str]:  # noqa: ARG002  # there is only one
        """`three , four , five , six .`"""
        return enumerated(NUMBERS[self.start : self.end + 1])

    def flaw(self, rng: Random) -> list[str]:
        """It begins or ends elsewhere, or leaves one out."""
        kind = rng.choice(("start", "end", "skip"))
        start, end = self.start, self.end
        if kind == "start":
            start = max(0, start + rng.choice((-1, 1)))
        elif kind == "end":
            end += rng.choice((-1, 1))
        row = list(NUMBERS[start : end + 1])
        if kind == "skip":
            row.pop(rng.randrange(1, len(row) - 1))
        return enumerated(row)

    def quality(self, words: Sequence[str]) -> float:
        """First number, last number, every step between, commas and full stop."""
        items = items_of(words)
        values = [NUMBERS.index(item) if item in NUMBERS else -9 for item in items]
        return weighted(
            (2, values[:1] == [self.start]),
            (2, values[-1:] == [self.end]),
            (2, len(values) > 1 and all(b - a == 1 for a, b in pairwise(values))),
            (2, list(words) == enumerated(items)),
        )
