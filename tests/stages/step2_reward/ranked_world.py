"""Comparisons whose order can be seen, and the stage that learns from them."""

from pathlib import Path

from stages.contracts import Context
from stages.records.schemas import Comparison, Demonstration
from stages.records.tables import read_table
from stages.step2_reward.config import (
    RewardModelConfig,
)
from stages.step2_reward.reward_model import run

FAST = {"lr": 1e-2, "batch_size": 8, "epochs": 6.0, "max_length": 64, "checkpoint_every": 4}


def comparison(world: Path, number: int, **changes) -> Comparison:
    """Completions that count to 1 up to 4, in a shuffled order; the longer count is better."""
    demonstrations = read_table(world / "demonstrations" / "train.parquet", Demonstration)
    size = 2 + number % 3
    words = ["one", "two", "three", "four"]
    order = [(number + k) % size for k in range(size)]
    values = {
        "prompt": demonstrations[number % 20].prompt,
        "completions": [" ".join(words[: k + 1]) for k in order],
        "source": ["sft"] * size,
        "finished": [True] * size,
        "ranks": [size - k for k in order],
        "scores": [float(k) for k in order],
    }
    return Comparison(**{**values, **changes})


def train(world: Path, comparisons: Path, out: Path, context: Context | None = None, **changes):
    return run(
        RewardModelConfig(**{**FAST, **changes}),
        sft=world / "sft",
        comparisons=comparisons,
        demonstrations=world / "demonstrations",
        out=out,
        context=context or Context.at(out / "work"),
    )
