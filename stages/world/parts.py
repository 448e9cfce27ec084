"""What the kinds of instruction share: weighing criteria, the form of lists, slips."""

from collections.abc import Sequence
from random import Random


def weighted(*criteria: tuple[int, bool]) -> float:
    """The weight of the (weight, met) criteria that are met, as a share of all; 1 when all are."""
    return sum(weight for weight, met in criteria if met) / sum(weight for weight, _ in criteria)


def enumerated(items: Sequence[str]) -> list[str]:
    """`a , b , c .`"""
    separated = [word for item in items for word in (item, ",")]
    return [*separated[:-1], "."]


def items_of(words: Sequence[str]) -> list[str]:
    """The words that are no punctuation."""
    return [word for word in words if word not in (",", ".")]


def slip(rng: Random, words: Sequence[str]) -> list[str]:
    """The words with one dropped, one doubled, or two neighbours swapped."""
    place = rng.randrange(len(words) - 1)
    before, (first, second), after = words[:place], words[place : place + 2], words[place + 2 :]
    middle = rng.choice(([second], [first, first, second], [second, first]))
    return [*before, *middle, *after]


def other(rng: Random, choices: Sequence[str], *excluded: str) -> str:
    """A random choice that is none of the excluded."""
    return rng.choice([choice for choice in choices if choice not in excluded])
