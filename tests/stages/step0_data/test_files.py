"""Tables from files: every row accounted for, splits as the user brings them, and the card."""

import json
from pathlib import Path

import pytest

from stages.contracts import Context, UserError
from stages.records.schemas import Comparison, Demonstration, Prompt
from stages.records.sources import OnBadRow, SourceConfig
from stages.records.tables import read_table
from stages.step0_data import files
from stages.step0_data.files_config import FilesConfig, PromptFilesConfig
from stages.step0_data.rules.config import RulesConfig, SplitConfig


def write(path: Path, rows: list) -> str:
    lines = [row if isinstance(row, str) else json.dumps(row) for row in rows]
    path.write_text("\n".join(lines) + "\n")
    return str(path)


def asked(number: int, **more) -> dict:
    return {"prompt": f"question number {number} ?", "response": f"answer {number}"} | more


def made(stage, config, folder: Path):
    folder.mkdir(exist_ok=True)
    return stage(config, out=folder, context=Context.at(folder / "context"))


def test_every_row_is_kept_or_dropped_for_a_reason(tmp_path):
    rows = [*map(asked, range(20)), asked(3), {"prompt": "only a question"}, "{broken"]
    config = FilesConfig(path=write(tmp_path / "rows.jsonl", rows), on_bad_row=OnBadRow.skip)
    report = made(files.demonstrations, config, tmp_path)
    kept = sum(len(read_table(tmp_path / f"{s}.parquet", Demonstration)) for s in TWO)
    dropped = {k: v for k, v in report.metrics.items() if k.startswith("dropped_")}
    assert report.metrics["rows_in"] == 23
    assert kept == 20
    assert sum(dropped.values()) == 3
    assert dropped["dropped_identical"] == 1
    card = json.loads((tmp_path / "data_card.json").read_text())
    assert sum(card["dropped"].values()) == 3
    places = [row["where"] for row in card["dropped_rows"] if "where" in row]
    assert any("rows.jsonl" in place and "22" in place for place in places)
    assert "## dropped" in (tmp_path / "data_card.md").read_text()


TWO = ("train", "validation")


def test_a_split_that_is_brought_is_taken_and_train_loses_its_prompts(tmp_path):
    """The held-out file has one prompt of the others: it stands once, and is counted."""
    config = PromptFilesConfig(
        path=write(tmp_path / "rows.jsonl", [asked(n) for n in range(10)]),
        test_path=write(tmp_path / "held_out.jsonl", [asked(4), asked(100)]),
    )
    report = made(files.prompts, config, tmp_path)
    test = read_table(tmp_path / "test.parquet", Prompt)
    assert asked(100)["prompt"] in {row.prompt[0]["content"] for row in test}
    assert report.metrics["dropped_identical"] == 1
    train = {row.prompt[0]["content"] for row in read_table(tmp_path / "train.parquet", Prompt)}
    assert not train & {row.prompt[0]["content"] for row in test}
    assert len(read_table(tmp_path / "validation.parquet", Prompt)) >= 1


def test_comparisons_and_their_labelers_are_described(tmp_path):
    """Two labelers order three completions: they agree on two of the three pairs."""
    texts = ["short", "a longer one", "the longest of them all"]
    both = [
        {"prompt": "which ?", "completions": texts, "ranks": ranks, "labeler": labeler}
        for labeler, ranks in (("ann", [3, 2, 1]), ("bob", [3, 1, 2]))
    ]
    others = [
        {"prompt": f"what {n} ?", "chosen": "good answer", "rejected": "bad"} for n in range(12)
    ]
    config = FilesConfig(
        path=write(tmp_path / "rows.jsonl", both + others),
        rules=RulesConfig(split=SplitConfig(validation=2)),
    )
    made(files.comparisons, config, tmp_path)
    assert len(read_table(tmp_path / "validation.parquet", Comparison)) == 2
    splits = json.loads((tmp_path / "data_card.json").read_text())["splits"]
    judged = [figures for figures in splits.values() if "agreement" in figures]
    assert [figures["agreement"] for figures in judged] == [pytest.approx(2 / 3)]
    assert sum(int(figures["k"].get("3", 0)) for figures in splits.values()) == 2


@pytest.mark.parametrize(
    ("config", "what"),
    [
        (lambda: FilesConfig(), "names no data"),
        (lambda: FilesConfig(path="x", rules=nothing_held_out()), "no validation split"),
        (
            lambda: PromptFilesConfig(
                path="x", rules=RulesConfig(split=SplitConfig(validation=0.1, test=0))
            ),
            "no test split",
        ),
    ],
)
def test_what_no_stage_could_work_with_is_refused_by_the_config(config, what):
    with pytest.raises(UserError, match=what):
        config()


def nothing_held_out() -> RulesConfig:
    return RulesConfig(split=SplitConfig(validation=0))


def test_a_bad_row_names_its_place(tmp_path):
    config = FilesConfig(path=write(tmp_path / "rows.jsonl", [asked(1), {"prompt": "only"}]))
    with pytest.raises(UserError, match=r"rows\.jsonl.*2.*response"):
        made(files.demonstrations, config, tmp_path)


def mixture(folder: Path, weights: tuple[float | None, float | None]) -> FilesConfig:
    """Thirty questions of one file, twelve of another."""
    own = write(folder / "own.jsonl", [asked(n) for n in range(30)])
    other = write(folder / "other.jsonl", [asked(n) for n in range(100, 112)])
    return FilesConfig(
        path=own,
        weight=weights[0],
        others={"more": SourceConfig(path=other, weight=weights[1])},
        rules=RulesConfig(split=SplitConfig(validation=2)),
    )


def test_sources_are_taken_whole_or_by_weight(tmp_path):
    """By 1 to 3 the other's rows are the scarce ones: a third as many of its own stay."""
    whole = made(files.demonstrations, mixture(tmp_path, (None, None)), tmp_path / "whole")
    assert whole.metrics["source_generic_rows"] == 30
    assert whole.metrics["source_more_rows"] == 12
    shared = made(files.demonstrations, mixture(tmp_path, (1, 3)), tmp_path / "shared").metrics
    assert 11 <= shared["source_more_rows"] <= 12
    assert 3 <= shared["source_generic_rows"] <= 5
    assert shared["dropped_over_its_share"] == 42 - sum(
        shared[f"source_{name}_rows"] for name in ("generic", "more")
    )


@pytest.mark.parametrize("weights", [(None, 1.0), (1.0, None)])
def test_all_sources_have_a_weight_or_none(tmp_path, weights):
    with pytest.raises(UserError, match="some sources of a mixture have a weight"):
        mixture(tmp_path, weights)


def test_a_split_by_name_needs_a_folder(tmp_path):
    path = write(tmp_path / "rows.jsonl", [asked(n) for n in range(3)])
    with pytest.raises(UserError, match="validation_split cannot choose"):
        FilesConfig(path=path, validation_split="validation")


def test_the_modules_of_all_formats_are_named(tmp_path):
    path = write(tmp_path / "rows.jsonl", [asked(1)])
    others = {"own": SourceConfig(adapter="reviews:Reviews", path=path)}
    assert FilesConfig(path=path, others=others).modules() == [
        "stages.records.adapters.generic",
        "reviews",
    ]
