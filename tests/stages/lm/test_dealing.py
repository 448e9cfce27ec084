"""Rows dealt to ranks: all of them, in equal numbers, in equally many forwards."""

from hypothesis import given
from hypothesis import strategies as st

from stages.lm.dealing import deal


def test_by_hand() -> None:
    """Lengths 1 to 8 to two ranks, at most 10 tokens a forward.

    Dealt 1 | 2, 4 | 3, 5 | 6, 8 | 7.
    """
    first, second = deal([1, 2, 3, 4, 5, 6, 7, 8], 2, max_tokens=10, num_tokens=36)
    assert (first.rows, second.rows) == ([0, 3, 4, 7], [1, 2, 5, 6])
    assert first.forwards == [[0, 1], [2], [3]]
    assert second.forwards == [[0, 1], [2], [3]]
    assert first.num_tokens == second.num_tokens == 36


def test_a_rank_with_shorter_rows_makes_as_many_forwards() -> None:
    """Mutation: `_split` left out."""
    first, second = deal([1, 9, 1, 9], 2, max_tokens=9, num_tokens=0)
    assert len(first.forwards) == len(second.forwards) == 2
    assert deal([1, 1, 1, 20], 2, max_tokens=20, num_tokens=0)[1].forwards == [[0], [1]]


@given(
    st.lists(st.integers(1, 30), min_size=1, max_size=40), st.integers(1, 5), st.integers(1, 100)
)
def test_every_row_is_computed_and_no_rank_waits(
    lengths: list[int], ranks: int, max_tokens: int
) -> None:
    """A row stands twice only where the number of rows is no multiple of the ranks."""
    shares = deal(lengths, ranks, max_tokens, num_tokens=1)
    rows = sorted(row for share in shares for row in share.rows)
    assert set(rows) == set(range(len(lengths)))
    assert len(rows) == len(lengths) + (-len(lengths) % ranks)
    assert len({len(share.rows) for share in shares}) == 1
    assert len({len(share.forwards) for share in shares}) == 1
    for share in shares:
        assert sorted(place for rows in share.forwards for place in rows) == list(
            range(len(share.rows))
        )
        for places in share.forwards:
            longest = max(lengths[share.rows[place]] for place in places)
            assert len(places) == 1 or longest * len(places) <= max_tokens
