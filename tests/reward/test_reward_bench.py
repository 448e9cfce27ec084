"""RewardBench's sections by hand."""

import pytest

from reward.pairs import Accuracy
from reward.reward_bench import SECTIONS, overall, sections

# Its published numbers of pairs; math-prm has 447 and counts as the six code subsets, 6 x 164.
PAIRS = {"math-prm": 447} | {f"hep-{x}": 164 for x in ("cpp", "go", "java", "js", "python", "rust")}


def share(name: str, value: float, pairs: int) -> Accuracy:
    return Accuracy(name=name, accuracy=value, error=None, pairs=pairs)


def test_subsets_count_by_their_pairs() -> None:
    """(3 x 1 + 1 x 0) / 4. Mutation: the plain mean of subsets gives 0.5."""
    (chat,) = sections([share("alpacaeval-easy", 1.0, 3), share("mt-bench-med", 0.0, 1)])
    assert (chat.name, chat.score, chat.complete) == ("chat", 0.75, False)


def test_mathematics_counts_as_much_as_code() -> None:
    """All of mathematics right, all code wrong. Mutation: unweighted gives 447/1431 = 0.31."""
    found = [share(name, float(name == "math-prm"), pairs) for name, pairs in PAIRS.items()]
    (reasoning,) = sections(found)
    assert reasoning.score == pytest.approx(0.5)
    assert reasoning.complete


def test_the_score_is_the_mean_of_four_sections() -> None:
    """Sections of 1, 0, 0.5, 0.5; none without all of their subsets."""
    values = {"chat": 1.0, "chat_hard": 0.0, "safety": 0.5, "reasoning": 0.5}
    found = [share(s, values[name], 10) for name, subsets in SECTIONS.items() for s in subsets]
    assert overall(sections(found)) == pytest.approx(0.5)
    assert overall(sections(found[1:])) is None
    assert overall(sections(found[:5])) is None


def test_another_benchmark_has_no_sections() -> None:
    assert sections([share("mine", 1.0, 3)]) == []
