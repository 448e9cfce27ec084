"""What the reward-model stage takes, leaves out and counts, and refuses."""

import json
from dataclasses import replace
from itertools import pairwise
from pathlib import Path

import pytest

from stages.contracts import UserError
from stages.lm.peft.config import PeftKind
from stages.lm.placement import TrainingPlacement
from stages.records.schemas import Comparison
from stages.records.tables import read_table, write_table
from stages.step2_reward.config import (
    Denominator,
    Loss,
    OnTooLong,
    RewardModelConfig,
    Start,
)
from tests.stages.step2_reward.ranked_world import comparison, train


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"completions": [" ", "one"], "finished": [False, True]}, "row 0: a completion without"),
        ({"pairs": [(0, 1, 0.5)]}, "only reward_model.loss=pairwise asks for margins"),
    ],
)
def test_what_the_loss_cannot_use_is_refused(
    world: Path, tmp_path: Path, changes: dict, message: str
) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.parquet", [comparison(world, 0, **changes)])
    with pytest.raises(UserError, match=message):
        train(world, tmp_path, tmp_path / "out", loss=Loss.plackett_luce)


def as_pairs(row: Comparison) -> Comparison:
    """The same order as explicit pairs of neighbours, its ranks saying nothing."""
    order = sorted(range(len(row.ranks)), key=row.ranks.__getitem__)
    pairs = [(better, worse, 0.5) for better, worse in pairwise(order)]
    return replace(row, pairs=pairs, ranks=[1] * len(row.ranks))


def test_explicit_pairs_are_learnt_where_ranks_say_nothing(world: Path, tmp_path: Path) -> None:
    """Accuracy by labels counts these pairs; gold knows the whole order."""
    rows = [as_pairs(comparison(world, n)) for n in range(55)]
    write_table(tmp_path / "train.parquet", rows[:40])
    write_table(tmp_path / "validation.parquet", rows[40:])
    report = train(world, tmp_path, tmp_path / "out")
    assert report.metrics["validation_accuracy_labels"] > 0.9
    assert report.metrics["validation_accuracy_gold"] > 0.9


def grouped(world: Path, number: int) -> Comparison:
    """Every third is ranked by a group of the opposite taste."""
    row = comparison(world, number, labeler_group="short" if number % 3 == 0 else "long")
    if row.labeler_group == "long":
        return row
    return replace(row, ranks=[len(row.ranks) + 1 - rank for rank in row.ranks])


def test_groups_can_be_held_out(world: Path, tmp_path: Path) -> None:
    """Of two opposite tastes one is learnt. Mutation: nobody dropped leaves both near a half."""
    write_table(tmp_path / "train.parquet", [grouped(world, n) for n in range(60)])
    write_table(tmp_path / "validation.parquet", [grouped(world, n) for n in range(60, 90)])
    report = train(world, tmp_path, tmp_path / "out", held_out_groups=["short"])
    assert report.metrics["train_prompts_held_out"] == 20
    assert report.metrics["validation_accuracy_seen_groups"] > 0.9
    assert report.metrics["validation_accuracy_held_out_groups"] < 0.1
    examined = json.loads((tmp_path / "out" / "examination.json").read_text())
    assert examined["held_out_groups"] == ["short"]
    assert {share["name"] for share in examined["by_group"]} == {"long", "short"}
    assert {share["name"] for share in examined["by_k"]} == {"2", "3", "4"}
    assert [source["name"] for source in examined["scores"]] == ["sft", "demonstrations"]
    assert examined["scores"][1]["mean"] == pytest.approx(0, abs=1e-5)


@pytest.mark.parametrize(
    ("groups", "message"),
    [(["shrot"], "did you mean short"), (["short", "long"], "nothing to train on")],
)
def test_groups_that_cannot_be_held_out(
    world: Path, tmp_path: Path, groups: list[str], message: str
) -> None:
    for split in ("train", "validation"):
        write_table(tmp_path / f"{split}.parquet", [grouped(world, n) for n in range(6)])
    with pytest.raises(UserError, match=message):
        train(world, tmp_path, tmp_path / "out", held_out_groups=groups)


@pytest.fixture
def with_long(world: Path, comparisons: Path) -> Path:
    """The comparisons with rows 41 and 42 of more than 64 tokens."""
    long = comparison(world, 0, completions=["one", "one " * 80])
    rows = read_table(comparisons / "train.parquet", Comparison)
    write_table(comparisons / "train.parquet", [*rows, long, long])
    return comparisons


def test_what_is_too_long_is_refused_with_file_and_row(
    world: Path, with_long: Path, tmp_path: Path
) -> None:
    with pytest.raises(UserError, match=r"train.parquet, row 41: .* longer than max_length") as e:
        train(world, with_long, tmp_path / "out")
    assert "and 1 more rows" in e.value.got


def test_what_is_too_long_is_left_out_counted_and_shown(
    world: Path, with_long: Path, tmp_path: Path
) -> None:
    report = train(world, with_long, tmp_path / "out", epochs=1.0, on_too_long=OnTooLong.skip)
    assert report.metrics["train_prompts_too_long"] == 2
    assert report.metrics["validation_prompts_too_long"] == 0
    (table,) = map(json.loads, (tmp_path / "out" / "work" / "tables.jsonl").open())
    assert [(row["split"], row["row"]) for row in table["rows"]] == [("train", 41), ("train", 42)]
    assert table["rows"][0]["tokens"] > 80


def test_a_length_above_the_model_s_context_is_refused(
    world: Path, comparisons: Path, tmp_path: Path
) -> None:
    """The small world's model has 64 positions."""
    with pytest.raises(UserError, match="above the model's context") as error:
        train(world, comparisons, tmp_path / "out", max_length=65)
    assert error.value.do == "set reward_model.max_length=64 or less"


def test_a_comparison_without_weight_is_not_learnt(
    world: Path, comparisons: Path, tmp_path: Path
) -> None:
    """Half of the comparisons say the opposite, with weight 0."""
    right = [comparison(world, n) for n in range(40)]
    wrong = [replace(r, ranks=[-rank + 5 for rank in r.ranks], weight=0.0) for r in right]
    write_table(comparisons / "train.parquet", [*right, *wrong])
    report = train(world, comparisons, tmp_path / "out", epochs=3.0)
    assert report.metrics["validation_accuracy_labels"] > 0.9


@pytest.mark.parametrize(
    ("split", "message"), [("train", "learn from"), ("validation", "judge by")]
)
def test_comparisons_of_ties_alone_are_refused(
    world: Path, comparisons: Path, tmp_path: Path, split: str, message: str
) -> None:
    write_table(comparisons / f"{split}.parquet", [comparison(world, 0, ranks=[1, 1])])
    with pytest.raises(UserError, match=f"no comparison to {message}"):
        train(world, comparisons, tmp_path / "out")


@pytest.mark.parametrize(
    "wrong",
    [
        {"lr": -1e-3},
        {"batch_size": 0},
        {"final_lr_fraction": 2.0},
        {"denominator": Denominator.all, "loss": Loss.best_of_k},
        {"start": Start.base, "peft": PeftKind.lora},
        {"batch_size": 7, "placement": TrainingPlacement(processes=2)},
    ],
)
def test_impossible_settings_are_refused(wrong: dict) -> None:
    with pytest.raises(UserError, match=next(iter(wrong))):
        RewardModelConfig(**wrong)
