"""run.json survives a round trip; summary.json is nested and keeps what was measured."""

import json

from pipeline.executors.protocol import StageState, Status
from pipeline.summary import (
    RunRecord,
    StageRecord,
    full_names,
    nest,
    read_run,
    write_run,
    write_summary,
)

METRICS = {
    "reward_model": {"validation.loss": 0.5},
    "evaluation": {"reward_model.accuracy_gold": 0.84, "policy_win_rate_vs_sft": 0.7},
}


FIGURES = {
    "reward_model.validation.loss": 0.5,
    "reward_model.accuracy_gold": 0.84,
    "evaluation.policy_win_rate_vs_sft": 0.7,
}


def record(status: Status, **changes) -> RunRecord:
    stages = {"sft": StageRecord(status=status, inputs={"base": "base"}, seconds=3.0)}
    return RunRecord(run="r1", stages=stages, **changes)


def test_run_json_survives_a_round_trip(tmp_path):
    run = record(Status.FAILED, departures={"align.kl_coef": (0.02, 0.05)})
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run


def test_a_stage_record_says_what_the_driver_sees(tmp_path):
    state = StageState(
        asset="sft",
        status=Status.DONE,
        fingerprint="a" * 64,
        folder=tmp_path / "sft",
        journal=tmp_path / "sft" / "journal",
        log=tmp_path / "log.txt",
        started=100.0,
        ended=103.5,
    )
    stage = StageRecord.of(state, {"base": "base"})
    assert (stage.seconds, stage.folder, stage.inputs) == (
        3.5,
        str(tmp_path / "sft"),
        {"base": "base"},
    )


def test_figures_nest_at_their_dots():
    assert nest({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_a_figure_of_another_asset_keeps_its_name():
    assert full_names(METRICS) == FIGURES


def test_a_figure_may_be_called_as_an_asset():
    """How many demonstrations sft saw is sft's figure."""
    metrics = {"demonstrations": {"gold": 0.7}, "sft": {"demonstrations": 64.0}}
    assert full_names(metrics) == {"demonstrations.gold": 0.7, "sft.demonstrations": 64.0}


def test_the_summary_holds_measures_and_figures(tmp_path):
    run = record(Status.DONE, wall_s=12.3456, cpu_s=20.0, peak_pss_gb=1.5)
    written = write_summary(tmp_path, run, FIGURES)
    assert written == json.loads((tmp_path / "summary.json").read_text())
    assert written == {
        "run": "r1",
        "wall_s": 12.346,
        "cpu_s": 20.0,
        "peak_pss_gb": 1.5,
        "cached": False,
        "reward_model": {"validation": {"loss": 0.5}, "accuracy_gold": 0.84},
        "evaluation": {"policy_win_rate_vs_sft": 0.7},
    }


def test_a_run_that_executes_nothing_keeps_what_was_measured(tmp_path):
    write_summary(
        tmp_path, record(Status.DONE, wall_s=300.0, cpu_s=500.0, peak_pss_gb=2.0), METRICS
    )
    idle = record(Status.CACHED, wall_s=2.0, cpu_s=1.0, peak_pss_gb=0.1)
    written = write_summary(tmp_path, idle, FIGURES)
    assert (written["wall_s"], written["cpu_s"], written["peak_pss_gb"]) == (300.0, 500.0, 2.0)
    assert written["cached"] is True


def test_a_first_run_with_everything_in_the_store_says_so(tmp_path):
    written = write_summary(tmp_path, record(Status.CACHED, wall_s=2.0), FIGURES)
    assert (written["wall_s"], written["cached"]) == (2.0, True)
