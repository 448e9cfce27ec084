"""Figures of a table by hand."""

import pytest

from stages.records.schemas import Comparison, Demonstration, Text
from stages.step0_data.describe import Description, describe, distribution, overlaps
from tests.stages.step0_data.rules.examples import demonstration, prompt


def comparison(ranks: list[int], completions: list[str], labeler: str | None = None) -> Comparison:
    return Comparison(
        prompt=[{"role": "user", "content": "a b c"}],
        completions=completions,
        source=["x"] * len(ranks),
        finished=[True] * len(ranks),
        ranks=ranks,
        labeler=labeler,
    )


def test_lengths_by_hand():
    """Numbers 1, 1, 4: mean 2, variance 2, median 1."""
    found = distribution([1, 1, 4])
    assert (found["mean"], found["std"], found["median"], found["max"]) == (2, 1.41, 1, 4)
    figures = describe([demonstration("a b c", "d e"), demonstration("a", "b c d e")])
    assert figures["prompt_length"]["mean"] == 2
    assert figures["response_length"]["median"] == 3
    assert describe([Text(text="one two")])["document_length"]["max"] == 2


def test_the_unit_is_the_callers():
    assert describe([demonstration("a b", "c")], len)["prompt_length"]["max"] == 3


def test_duplicates_users_and_turns():
    rows = [demonstration("a", "x", "u1"), demonstration("a", "x", "u1"), demonstration("a", "y")]
    figures = describe(rows)
    assert (figures["rows"], figures["identical_rows"], figures["distinct_prompts"]) == (3, 1, 1)
    assert (figures["users"], figures["user_turns"]) == (1, {"1": 3})
    system = Demonstration(
        prompt=[{"role": "system", "content": "be brief"}, {"role": "user", "content": "hello"}],
        response="hi",
    )
    assert describe([system])["with_system_prompt"] == 1


def test_labels_by_hand():
    """Three pairs: first and second tie, the third, longest, is better than both."""
    figures = describe([comparison([2, 2, 1], ["aa", "b", "cccc"])])
    assert (figures["pairs"], figures["k"]) == (3, {"3": 1})
    assert figures["tie_share"] == pytest.approx(1 / 3)
    assert figures["longer_is_better"] == 1
    assert figures["first_listed_is_better"] == 0
    assert "agreement" not in figures
    assert describe([comparison([1, 1], ["a", "b"])])["all_tied_rows"] == 1


def test_agreement_is_over_pairs_that_neither_labeler_ties():
    """Of three pairs one is tied by the second labeler, one is turned round: one of two."""
    texts = ["a", "b", "c"]
    rows = [comparison([1, 2, 3], texts, "ann"), comparison([2, 1, 2], texts, "bob")]
    figures = describe(rows)
    assert (figures["agreement"], figures["agreement_pairs"]) == (0.5, 2)


def test_the_same_completions_in_another_order_are_compared_by_their_texts():
    one, other = comparison([1, 2], ["a", "b"], "ann"), comparison([2, 1], ["b", "a"], "bob")
    assert describe([one, other])["agreement"] == 1


def test_prompts_that_stand_in_two_splits_are_counted():
    splits = {name: Description() for name in ("train", "test")}
    for name, text in (("train", "a"), ("train", "b"), ("test", "b"), ("test", "c")):
        splits[name].add(prompt(text))
    assert overlaps(splits) == {"train and test": 1}
