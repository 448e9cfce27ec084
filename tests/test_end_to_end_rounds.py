"""Online DPO and rejection sampling as a user runs them."""

import json
from pathlib import Path

import pyarrow.parquet as pq
import pytest

from stages.records.schemas import Completions
from stages.records.tables import read_table
from tests.metrics_page import documented_curves, undocumented_figures
from tests.test_end_to_end_ensemble import made, run

TWO = ("workflow=online_dpo", "workflow.rounds=2")
OF_ROUNDS = ["completions_1", "comparisons_1", "policy_1", "completions_2", "comparisons_2"]


@pytest.mark.slow
@pytest.mark.timeout(900)
def test_two_rounds_of_online_dpo_and_a_third(tmp_path: Path) -> None:
    first = run(tmp_path, "two", *TWO)
    assert {*OF_ROUNDS, "policy", "evaluation"} < set(made(first))
    (sampled,) = (tmp_path / "store" / "completions_2").iterdir()
    rows = read_table(sampled / "train.parquet", Completions)
    assert {source for row in rows for source in row.source} == {"policy_1"}
    summary = json.loads((tmp_path / "two" / "summary.json").read_text())
    assert undocumented_figures(summary) == []
    curves = pq.read_table(tmp_path / "two" / "metrics.parquet", columns=["name"])
    assert set(curves["name"].to_pylist()) <= documented_curves()
    assert "Preference loss, round 1" in (tmp_path / "two" / "report.html").read_text()
    assert made(run(tmp_path, "again", *TWO)) == []

    third = run(tmp_path, "three", "workflow=online_dpo", "workflow.rounds=3")
    assert made(third) == ["policy_2", "completions_3", "comparisons_3", "policy", "evaluation"]
    model = run(
        tmp_path,
        "model",
        *TWO,
        "workflow.ranked_by=reward_model",
        "align=kto",
        f"given.reward_model={tmp_path / 'two'}",
    )
    assert made(model) == ["comparisons_1", "policy_1", *OF_ROUNDS[3:], "policy", "evaluation"]


@pytest.mark.slow
@pytest.mark.timeout(600)
def test_rejection_sampling_from_text_to_evaluation(tmp_path: Path) -> None:
    first = run(tmp_path, "first", "align=rejection_sampling", "align.sft.batch_size=4",
                "align.sft.microbatch_size=4")  # fmt: skip
    assert "winners" in made(first)
    summary = json.loads((tmp_path / "first" / "summary.json").read_text())
    assert undocumented_figures(summary) == []
    other = run(tmp_path, "other", "align=rejection_sampling", "align.sft.batch_size=4",
                "align.sft.microbatch_size=4", "align.sft.epochs=1")  # fmt: skip
    assert made(other) == ["policy", "evaluation"]
