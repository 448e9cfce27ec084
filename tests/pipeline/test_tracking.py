"""Following journals: each record is handed on once, whatever happens to the files in between."""

import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from pipeline.tracking.interface import LoggedArtifact, LoggedStep, LoggedTable
from pipeline.tracking.journals import JournalTail, read_metrics
from pipeline.tracking.state import open_state
from pipeline.tracking.tracking import Tracking
from stages.contracts import Journal

FINGERPRINTS = {"sft": "a" * 64, "policy": "b" * 64}


class Remembering:
    """A tracker that keeps what it is given."""

    def __init__(self):
        self.steps: list[LoggedStep] = []
        self.tables: list[LoggedTable] = []
        self.artifacts: list[LoggedArtifact] = []
        self.summary = None

    def log(self, record):
        self.steps.append(record)

    def table(self, record):
        self.tables.append(record)

    def artifact(self, artifact):
        self.artifacts.append(artifact)

    def close(self, summary):
        self.summary = summary

    def points(self, name):
        return [(s.step, s.values[name]) for s in self.steps if name in s.values]


@pytest.fixture
def journal(tmp_path) -> Journal:
    return Journal(tmp_path / "journal")


@pytest.fixture
def tracker() -> Remembering:
    return Remembering()


def open_on(folder: Path, tracker: Remembering, fingerprints=FINGERPRINTS) -> Tracking:
    return Tracking(folder, [tracker], open_state(folder, fingerprints))


def artifact(folder: Path, *, made_here: bool = True) -> LoggedArtifact:
    return LoggedArtifact(
        asset="sft",
        fingerprint="a" * 64,
        folder=folder,
        parents={"base": "c" * 64},
        metrics={"validation_loss": 1.5},
        made_here=made_here,
    )


def test_each_step_is_handed_on_once(tmp_path, journal, tracker):
    tracking = open_on(tmp_path, tracker)
    for step in range(3):
        journal.log(step, {"train/loss": step / 2})
        tracking.follow("sft", tmp_path / "journal")
        tracking.follow("sft", tmp_path / "journal")
    assert tracker.points("train/loss") == [(0, 0.0), (1, 0.5), (2, 1.0)]


def test_a_rewound_stage_repeats_no_step(tmp_path, journal, tracker):
    """Red when `new_values` keeps what is not above the last step."""
    tracking = open_on(tmp_path, tracker)
    for step in range(6):
        journal.log(step, {"train/loss": float(step)})
    tracking.follow("sft", tmp_path / "journal")
    journal.rewind(2)
    tracking.follow("sft", tmp_path / "journal")
    for step in range(3, 9):
        journal.log(step, {"train/loss": float(step)})
        tracking.follow("sft", tmp_path / "journal")
    assert tracker.points("train/loss") == [(s, float(s)) for s in range(9)]


def test_a_rewind_between_two_reads_is_noticed(tmp_path, journal, tracker):
    """The file is as long as before, with another content: only its identity tells."""
    tracking = open_on(tmp_path, tracker)
    for step in range(4):
        journal.log(step, {"train/loss": 0.0})
    tracking.follow("sft", tmp_path / "journal")
    journal.rewind(1)
    for step in range(2, 6):
        journal.log(step, {"train/loss": 0.0})
    tracking.follow("sft", tmp_path / "journal")
    assert [step for step, _ in tracker.points("train/loss")] == list(range(6))


def test_a_resumed_pipeline_repeats_no_step(tmp_path, journal, tracker):
    open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    journal.log(0, {"train/loss": 1.0})
    open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    journal.log(1, {"train/loss": 2.0})
    open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    assert tracker.points("train/loss") == [(0, 1.0), (1, 2.0)]


def test_two_records_of_one_step_both_count(tmp_path, journal, tracker):
    tracking = open_on(tmp_path, tracker)
    journal.log(4, {"train/loss": 1.0})
    tracking.follow("sft", tmp_path / "journal")
    journal.log(4, {"validation/loss": 2.0})
    tracking.follow("sft", tmp_path / "journal")
    assert tracker.points("train/loss") == [(4, 1.0)]
    assert tracker.points("validation/loss") == [(4, 2.0)]


def test_the_index_only_grows_over_all_tries(tmp_path, journal, tracker):
    for step in range(5):
        journal.log(step, {"train/loss": 0.0})
        journal.table(step, "samples", [{"response": "a cat"}])
        open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    indices = sorted([r.index for r in tracker.steps] + [r.index for r in tracker.tables])
    assert indices == list(range(1, 11))


def test_half_a_line_waits_for_its_rest(tmp_path):
    path = tmp_path / "metrics.jsonl"
    tail = JournalTail()
    path.write_text('{"step": 1, "values": {}}\n{"step": 2, "va')
    assert [r["step"] for r in tail.read(tmp_path)[0]] == [1]
    with path.open("a") as file:
        file.write('lues": {}}\n')
    assert [r["step"] for r in tail.read(tmp_path)[0]] == [2]


def test_a_journal_that_moves_into_its_artifact_goes_on(tmp_path, journal, tracker):
    tracking = open_on(tmp_path, tracker)
    journal.log(0, {"train/loss": 0.0})
    tracking.follow("sft", tmp_path / "journal")
    journal.log(1, {"train/loss": 1.0})
    shutil.move(tmp_path / "journal", tmp_path / "published")
    tracking.follow("sft", tmp_path / "journal")
    tracking.follow("sft", tmp_path / "published")
    assert tracker.points("train/loss") == [(0, 0.0), (1, 1.0)]


def test_tables_are_handed_on_once(tmp_path, journal, tracker):
    rows = [{"prompt": "say cat", "response": "cat"}]
    journal.table(3, "samples", rows)
    for _ in range(2):
        open_on(tmp_path, tracker).follow("policy", tmp_path / "journal")
    assert [(t.stage, t.step, t.name, t.rows) for t in tracker.tables] == [
        ("policy", 3, "samples", rows)
    ]


def test_another_fingerprint_begins_a_new_run(tmp_path, journal, tracker):
    journal.log(0, {"train/loss": 0.0})
    open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    first = json.loads((tmp_path / "tracking.json").read_text())["id"]
    assert open_state(tmp_path, FINGERPRINTS).id == first
    changed = {**FINGERPRINTS, "sft": "d" * 64}
    assert open_state(tmp_path, changed).id != first
    open_on(tmp_path, tracker, changed).follow("sft", tmp_path / "journal")
    assert len(tracker.steps) == 2


def test_a_stage_not_told_yet_may_change(tmp_path, journal, tracker):
    journal.log(0, {"train/loss": 0.0})
    open_on(tmp_path, tracker).follow("sft", tmp_path / "journal")
    changed = {**FINGERPRINTS, "policy": "d" * 64}
    first = json.loads((tmp_path / "tracking.json").read_text())["id"]
    assert open_state(tmp_path, changed).id == first


def test_an_artifact_is_named_once(tmp_path, tracker):
    for _ in range(2):
        open_on(tmp_path, tracker).publish(artifact(tmp_path))
    assert [a.asset for a in tracker.artifacts] == ["sft"]


def test_close_hands_over_the_summary(tmp_path, tracker):
    open_on(tmp_path, tracker).close({"wall_s": 1.0})
    assert tracker.summary == {"wall_s": 1.0}


def test_read_metrics_takes_the_last_of_a_repeated_step(tmp_path, journal):
    journal.log(2, {"train/loss": 9.0})
    journal.log(1, {"train/loss": 5.0})
    journal.log(2, {"train/loss": 3.0})
    assert read_metrics(tmp_path / "journal") == {"train/loss": {1: 5.0, 2: 3.0}}


def test_read_metrics_of_a_silent_stage_is_empty(tmp_path):
    assert read_metrics(tmp_path) == {}


def test_nothing_heavy_is_imported_before_a_run_is_tracked():
    code = (
        "import sys, pipeline.summary, pipeline.tracking.tracking\n"
        "import pipeline.tracking.metrics_table\n"
        "heavy = {'wandb', 'tensorboard', 'torch', 'pyarrow', 'pandas', 'matplotlib'}\n"
        "sys.exit(str(heavy & set(sys.modules) or ''))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stderr.strip() == ""
