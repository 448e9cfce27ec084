"""Three comparisons whose every figure can be worked out by hand."""

from reward.examination import Scored
from stages.records.schemas import Comparison


def comparison(name: str, ranks: list[int], **changes) -> Comparison:
    """Of completions `NAME0`, `NAME1`, ... to the prompt NAME."""
    values = {
        "prompt": [{"role": "user", "content": name}],
        "completions": [f"{name}{k}" for k in range(len(ranks))],
        "source": ["sft"] * len(ranks),
        "finished": [True] * len(ranks),
        "ranks": ranks,
    }
    return Comparison(**{**values, **changes})


def three() -> list[Scored]:
    """Six pairs; in order of the labels (better, worse), scores differ by 2, 1, -1; 0; -0.5, 0.5.

    Lengths by 0, -2, -2; -2; -1, -1. Gold by 0.8, 0.4, -0.4; 0.2; 0, 0.
    """
    first = comparison(
        "a",
        [1, 2, 3],
        source=["sft", "sft", "ppo"],
        scores=[0.9, 0.1, 0.5],
        labeler_group="x",
        subset="easy",
    )
    second = comparison("b", [2, 1], scores=[0.2, 0.4], labeler_group="y", subset="hard")
    third = comparison("c", [1, 1, 3], scores=[0.5] * 3, labeler_group="y", subset="hard")
    return [
        Scored(comparison=first, scores=[2.0, 0.0, 1.0], lengths=[3, 3, 5]),
        Scored(comparison=second, scores=[1.0, 1.0], lengths=[4, 2]),
        Scored(comparison=third, scores=[0.0, 1.0, 0.5], lengths=[10, 10, 11]),
    ]
