"""Ten prompts for the report, chosen without a look at what was answered."""

from collections.abc import Sequence
from typing import Any

Sample = dict[str, Any]
SHOWN = 10


def choose(samples: Sequence[Sample], count: int = SHOWN) -> list[Sample]:
    """The first of every kind, then the second of every kind, and so on."""
    places: dict[str, int] = {}
    ranked = []
    for index, sample in enumerate(samples):
        kind = sample.get("kind", "")
        ranked.append((places.get(kind, 0), index))
        places[kind] = places.get(kind, 0) + 1
    return [samples[index] for _, index in sorted(ranked)[:count]]
