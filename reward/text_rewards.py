"""A reward that reads text: what it is given, what it must give back, how it fails. No torch here.

A Python function, a rule, an LLM judge and a remote server are all of this one form. None of them
may turn a failure into a number: whoever learns from a silent 0 learns from nothing.
"""

import math
from collections.abc import Sequence
from typing import Protocol

from stages.records.schemas import Message


class TextReward(Protocol):
    """A score for each of B responses; higher is better, any scale."""

    def __call__(
        self, prompts: list[list[Message]], responses: list[str], finished: list[bool]
    ) -> list[float]:
        """B finite numbers, in the order of the rows.

        prompts: the messages that each response answers; finished: it ended in EOS, it was not cut.

        Raises:
            RewardError: a row that cannot be scored: no answer in time, no number in it.
        """


class RewardError(RuntimeError):
    """A component of the reward gave no usable score.

    component: its name. rows: of the batch, from 0; none: the call as a whole failed.
    """

    def __init__(self, component: str, rows: Sequence[int], cause: str) -> None:
        super().__init__(component, tuple(rows), cause)  # all, so that it survives pickling
        self.component, self.rows, self.cause = component, tuple(rows), cause

    def __str__(self) -> str:
        where = f" on row {', '.join(map(str, self.rows[:8]))}" if self.rows else ""
        more = f" and {len(self.rows) - 8} more" if len(self.rows) > 8 else ""
        return f"the reward {self.component} failed{where}{more}: {self.cause}"


def check_scores(name: str, scores: object, count: int) -> list[float]:
    """The scores as floats.

    Raises:
        RewardError: not `count` values, or one that is no finite number (rows says which).
    """
    if isinstance(scores, str | bytes) or not isinstance(scores, Sequence):
        raise RewardError(name, (), f"a list of {count} numbers is wanted, got {_short(scores)}")
    if len(scores) != count:
        raise RewardError(name, (), f"{count} scores are wanted, got {len(scores)}")
    wrong = [row for row, score in enumerate(scores) if not _is_finite(score)]
    if wrong:
        raise RewardError(name, wrong, f"{_short(scores[wrong[0]])} is no finite number")
    return [float(score) for score in scores]


def _is_finite(score: object) -> bool:
    """True and False count as 1 and 0, as anywhere in Python."""
    return isinstance(score, int | float) and math.isfinite(score)


def _short(value: object) -> str:
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:77]}..."
