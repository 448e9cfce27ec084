"""Who computes what: the rows of a batch dealt to ranks, and cut into as many forwards on each.

A sharded model gathers its weights in every forward, so all ranks must make the same number of
them. Whoever knows all lengths deals for everybody.
"""

from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import TypeVar

from stages.lm.batching import micro_batches

Piece = TypeVar("Piece")


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's part of a batch.

    rows: of the whole batch, in its order. forwards: places in `rows`, a list a forward.
    num_tokens: of the whole batch, over all ranks: what a loss is divided by.
    """

    rows: list[int]
    forwards: list[list[int]]
    num_tokens: int


def with_last(forwards: Sequence[Piece]) -> Iterator[tuple[Piece, bool]]:
    """What each forward gets, and whether it is the last one."""
    for place, piece in enumerate(forwards, start=1):
        yield piece, place == len(forwards)


def deal(lengths: Sequence[int], ranks: int, max_tokens: int, num_tokens: int) -> list[Share]:
    """A share a rank: equally many rows, of balanced lengths, in equally many forwards.

    Where the rows do not come out even, the shortest stands in more than one share: fine for what
    is written back by row, wrong for sums.
    """

    def cut(rows: list[int]) -> list[list[int]]:
        return micro_batches([lengths[row] for row in rows], max_tokens)

    return [
        Share(rows=rows, forwards=forwards, num_tokens=num_tokens)
        for rows, forwards in deal_and_cut(lengths, ranks, cut)
    ]


def deal_and_cut(
    lengths: Sequence[int], ranks: int, cut: Callable[[list[int]], list[list[int]]]
) -> list[tuple[list[int], list[list[int]]]]:
    """(rows, forwards) of each rank, forwards as places in rows.

    cut: a rank's rows to its forwards, before some are halved so that all ranks have as many.
    """
    hands = _hands(lengths, ranks)
    cuts = [cut(rows) for rows in hands]
    num_forwards = max(map(len, cuts))
    return [
        (rows, _split(forwards, num_forwards)) for rows, forwards in zip(hands, cuts, strict=True)
    ]


def _hands(lengths: Sequence[int], ranks: int) -> list[list[int]]:
    """Sorted by length, dealt there and back again: 0 1 1 0 0 1 1 0 ..."""
    order = sorted(range(len(lengths)), key=lambda row: (lengths[row], row))
    order = order[:1] * (-len(order) % ranks) + order
    hands: list[list[int]] = [[] for _ in range(ranks)]
    for round_, start in enumerate(range(0, len(order), ranks)):
        dealt = order[start : start + ranks]
        for rank, row in enumerate(dealt if round_ % 2 == 0 else reversed(dealt)):
            hands[rank].append(row)
    return [sorted(rows) for rows in hands]


def _split(groups: list[list[int]], wanted: int) -> list[list[int]]:
    """The largest group halved until there are as many as wanted."""
    groups = list(groups)
    while len(groups) < wanted:
        place = max(range(len(groups)), key=lambda index: len(groups[index]))
        half = len(groups[place]) // 2
        groups[place : place + 1] = [groups[place][:half], groups[place][half:]]
    return groups


def added_up(figures: Sequence[Mapping[str, float]]) -> dict[str, float]:
    """Ranks' shares of means add up; of maxima the largest; norms are the same on all ranks."""
    whole = {}
    for name in figures[0]:
        column = [of_rank[name] for of_rank in figures]
        if name.startswith("grad_norm"):
            whole[name] = column[0]
        else:
            whole[name] = max(column) if name.endswith("_max") else sum(column)
    return whole
