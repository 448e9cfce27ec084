"""Pairs about the same prompt as one comparison of K completions, where they do not contradict."""

from collections.abc import Sequence
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter

from stages.records.adapter import Part
from stages.records.comparing import compared
from stages.records.schemas import Comparison, Message

Pair = tuple[int, int]  # indices of the better and the worse completion


@dataclass(frozen=True, kw_only=True)
class Preference:
    """One person's choice between two responses."""

    prompt: list[Message]
    better: str
    worse: str


def prompt_key(prompt: list[Message]) -> tuple[tuple[str, str], ...]:
    """What makes two prompts the same."""
    return tuple((message["role"], message["content"]) for message in prompt)


def joined(parts: list[Part[Preference]]) -> list[Comparison]:
    """One comparison with explicit pairs; choices that go round in a circle stay pairs of two.

    A pair that is said again counts once. ranks: 1 + the longest chain of better completions.
    """
    prompt = parts[0].item.prompt
    completions = list(dict.fromkeys(t for part in parts for t in _texts(part.item)))
    place = {text: index for index, text in enumerate(completions)}
    pairs: dict[Pair, None] = {}
    for part in parts:
        pair = place[part.item.better], place[part.item.worse]
        if pair in pairs:
            part.row.leave_out("the same pair again")
        pairs[pair] = None
    ranks = _ranks(list(pairs), len(completions))
    if ranks is None:
        return [compared(prompt, completions[i], completions[j]) for i, j in pairs]
    return [
        Comparison(
            prompt=prompt,
            completions=completions,
            source=["unknown"] * len(completions),
            finished=[True] * len(completions),
            ranks=ranks,
            pairs=None if len(completions) == 2 else [(i, j, 0.0) for i, j in pairs],
        )
    ]


def _texts(preference: Preference) -> tuple[str, str]:
    return preference.better, preference.worse


def _ranks(pairs: Sequence[Pair], number: int) -> list[int] | None:
    """None where the pairs go round in a circle."""
    better: dict[int, set[int]] = {index: set() for index in range(number)}
    for one, other in pairs:
        better[other].add(one)
    ranks: dict[int, int] = {}
    try:
        for index in TopologicalSorter(better).static_order():
            ranks[index] = 1 + max((ranks[above] for above in better[index]), default=0)
    except CycleError:
        return None
    return [ranks[index] for index in range(number)]
