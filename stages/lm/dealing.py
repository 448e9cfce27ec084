"""Who computes what: the rows of a batch dealt to ranks, and cut into as many forwards on each.

A sharded model gathers its weights in every forward, so all ranks must make the same number of
them. Whoever knows all lengths deals for everybody.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

from stages.lm.batching import micro_batches


@dataclass(frozen=True, kw_only=True)
class Share:
    """One rank's part of a batch.

    rows: of the whole batch, in its order. forwards: places in `rows`, a list a forward.
    num_tokens: of the whole batch, over all ranks: what a loss is divided by.
    """

    rows: list[int]
    forwards: list[list[int]]
    num_tokens: int


def with_last(forwards: Sequence[list[int]]) -> Iterator[tuple[list[int], bool]]:
    """Each forward's rows, and whether it is the last one."""
    for place, rows in enumerate(forwards, start=1):
        yield rows, place == len(forwards)


def deal(lengths: Sequence[int], ranks: int, max_tokens: int, num_tokens: int) -> list[Share]:
    """A share a rank: equally many rows, of balanced lengths, in equally many forwards.

    Where the rows do not come out even, the shortest stands in more than one share: fine for what
    is written back by row, wrong for sums.
    """
    hands = _hands(lengths, ranks)
    cuts = [micro_batches([lengths[row] for row in rows], max_tokens) for rows in hands]
    num_forwards = max(map(len, cuts))
    return [
        Share(rows=rows, forwards=_split(cut, num_forwards), num_tokens=num_tokens)
        for rows, cut in zip(hands, cuts, strict=True)
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
