"""run.json survives a round trip; summary.json is nested and keeps what was measured."""

import json

from pipeline.summary import (
    RunRecord,
    StageRecord,
    State,
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


def record(state: State, **changes) -> RunRecord:
    stages = {"sft": StageRecord(state=state, inputs={"base": "base"}, seconds=3.0)}
    return RunRecord(run="r1", stages=stages, **changes)


def test_run_json_survives_a_round_trip(tmp_path):
    run = record(State.FAILED, departures={"align.kl_coef": (0.02, 0.05)})
    write_run(tmp_path, run)
    assert read_run(tmp_path) == run


def test_figures_nest_at_their_dots():
    assert nest({"a.b.c": 1, "a.d": 2, "e": 3}) == {"a": {"b": {"c": 1}, "d": 2}, "e": 3}


def test_a_figure_of_another_asset_keeps_its_name():
    assert full_names(METRICS) == {
        "reward_model.validation.loss": 0.5,
        "reward_model.accuracy_gold": 0.84,
        "evaluation.policy_win_rate_vs_sft": 0.7,
    }


def test_the_summary_holds_measures_and_figures(tmp_path):
    run = record(State.DONE, wall_s=12.3456, cpu_s=20.0, peak_pss_gb=1.5)
    written = write_summary(tmp_path, run, METRICS)
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
    write_summary(tmp_path, record(State.DONE, wall_s=300.0, cpu_s=500.0, peak_pss_gb=2.0), METRICS)
    idle = record(State.CACHED, wall_s=2.0, cpu_s=1.0, peak_pss_gb=0.1)
    written = write_summary(tmp_path, idle, METRICS)
    assert (written["wall_s"], written["cpu_s"], written["peak_pss_gb"]) == (300.0, 500.0, 2.0)
    assert written["cached"] is True


def test_a_first_run_with_everything_in_the_store_says_so(tmp_path):
    written = write_summary(tmp_path, record(State.CACHED, wall_s=2.0), METRICS)
    assert (written["wall_s"], written["cached"]) == (2.0, True)
