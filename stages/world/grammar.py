"""The grammar of the world's sentences: the same patterns write a sentence and recognise one.

A pattern is a row of words; an upper-case word is a slot for any word of its class, and a `?`
before it says that the slot may stay empty.
"""

from collections.abc import Mapping, Sequence
from functools import lru_cache
from itertools import product
from random import Random

from stages.world.words import ANIMALS, COLORS, FELT, PLACES, QUALITIES, SIZES, THINGS, TOOK, WENT

Shape = tuple[tuple[str, ...], ...]  # the words allowed at each position

SLOTS: dict[str, tuple[str, ...]] = {
    "ANIMAL": ANIMALS,
    "THING": THINGS,
    "PLACE": PLACES,
    "COLOR": COLORS,
    "SIZE": SIZES,
    "QUALITY": QUALITIES,
    "TOOK": TOOK,
    "WENT": WENT,
    "FELT": FELT,
}
PLAIN_PATTERNS = (
    "the ?QUALITY ANIMAL TOOK the THING .",
    "one day the ANIMAL TOOK a SIZE THING .",
)
PLACE_PATTERNS = (
    "the ?QUALITY ANIMAL WENT to the PLACE with the THING .",
    "the ANIMAL TOOK a COLOR THING near the PLACE .",
)
MOOD_PATTERNS = (
    "the ?QUALITY ANIMAL FELT at the THING .",
    "the ANIMAL FELT near the PLACE with the THING .",
)
PATTERNS = PLAIN_PATTERNS + PLACE_PATTERNS + MOOD_PATTERNS
COLOR_FACT = "the THING is COLOR ."
PLACE_FACT = "the ANIMAL is near the PLACE ."
QUALITY_SHARE = 0.4  # how often an optional slot is filled


def write_sentence(
    rng: Random, given: Mapping[str, str], patterns: Sequence[str] = PATTERNS
) -> list[str]:
    """One sentence of a random pattern; slots named in `given` take that word, the others any."""
    words = []
    for symbol in rng.choice(patterns).split():
        if symbol.startswith("?") and rng.random() >= QUALITY_SHARE:
            continue
        slot = symbol.lstrip("?")
        words.append(given.get(slot) or rng.choice(SLOTS.get(slot, (slot,))))
    return words


def is_sentence(words: Sequence[str], patterns: tuple[str, ...] = PATTERNS) -> bool:
    """Whether the words are exactly one sentence of these patterns, full stop included."""
    return any(_fits(words, shape) for pattern in patterns for shape in _expand(pattern))


def _fits(words: Sequence[str], shape: Shape) -> bool:
    fitting = (word in allowed for word, allowed in zip(words, shape, strict=True))
    return len(words) == len(shape) and all(fitting)


@lru_cache
def _expand(pattern: str) -> list[Shape]:
    """The pattern with its optional slots in or out."""
    symbols = pattern.split()
    optional = [symbol.startswith("?") for symbol in symbols]
    return [
        tuple(
            SLOTS.get(symbol.lstrip("?"), (symbol,))
            for symbol, is_in in zip(symbols, kept, strict=True)
            if is_in
        )
        for kept in product(*((True, False) if may_go else (True,) for may_go in optional))
    ]
