"""What is shown while a run goes."""

import io
import json
from pathlib import Path

from rich.console import Console

from pipeline.executors.protocol import StageState, Status
from pipeline.progress import PlainProgress, duration, levels, open_progress, picture, read_bar

READS: dict[str, list[str]] = {
    "text": [],
    "base": ["text"],
    "demonstrations": [],
    "sft": ["base", "demonstrations"],
}


def state(asset: str, status: Status, folder: Path = Path("nowhere"), **more: object) -> StageState:
    values = {
        "fingerprint": "f" * 64,
        "folder": folder,
        "journal": folder,
        "log": folder / "log.txt",
    }
    return StageState(asset=asset, status=status, **{**values, **more})  # type: ignore[arg-type]


def test_levels_follow_the_longest_way() -> None:
    assert levels(READS) == [["text", "demonstrations"], ["base"], ["sft"]]


def test_plain_lines_come_at_changes_only() -> None:
    stream = io.StringIO()
    progress = PlainProgress(stream)
    waiting, running = state("sft", Status.WAITING), state("sft", Status.RUNNING, note="forced")
    for step in (waiting, running, running, state("sft", Status.FAILED, error="out of words")):
        progress.update({"sft": step})
    lines = [line.split("s  ", 1)[1].split() for line in stream.getvalue().splitlines()]
    assert lines == [["sft", "running", "forced"], ["sft", "failed", "out", "of", "words"]]


def test_the_picture_has_graph_bar_and_figures(tmp_path: Path) -> None:
    bar = {"done": 3, "total": 12, "unit": "steps", "figures": {"loss": 1.25}}
    (tmp_path / "progress.json").write_text(json.dumps(bar))
    states = {
        "text": state("text", Status.CACHED, note="made today"),
        "base": state("base", Status.RUNNING, tmp_path, started=1.0, ended=8.3),
        "demonstrations": state("demonstrations", Status.WAITING, note="not made yet"),
        "sft": state("sft", Status.FAILED, error="first line\nsecond line"),
    }
    screen = Console(file=io.StringIO(), width=140)
    screen.print(picture(states, READS))
    assert isinstance(screen.file, io.StringIO)
    text = screen.file.getvalue()
    assert "text · demonstrations ─► base ─► sft" in text
    assert "3/12 steps  7.3 s  loss 1.25" in text
    assert "made today" in text
    assert "← base, demonstrations" in text
    assert "second line" not in text


def test_a_terminal_gets_the_live_picture_a_file_gets_lines() -> None:
    screen = Console(file=io.StringIO(), force_terminal=True, width=100)
    with open_progress(READS, screen) as progress:
        progress.update({asset: state(asset, Status.DONE) for asset in READS})
    assert isinstance(screen.file, io.StringIO)
    assert "✓" in screen.file.getvalue()
    assert isinstance(open_progress(READS, Console(file=io.StringIO())), PlainProgress)


def test_a_bar_that_is_not_there_or_half_written_is_no_bar(tmp_path: Path) -> None:
    assert read_bar(tmp_path) is None
    (tmp_path / "progress.json").write_text('{"done": ')
    assert read_bar(tmp_path) is None


def test_durations_as_people_read_them() -> None:
    assert duration(7.25) == "7.2 s"
    assert duration(245.2) == "4 min 05 s"
