"""A trainer's checkpoint counts only when its marker vouches for every file."""

import pytest

from stages.lm.folders import link_folder
from stages.lm.trl_checkpoints import (
    MARKER,
    checkpoint_step,
    is_complete,
    keep_only,
    latest_checkpoint,
    mark_complete,
)


@pytest.fixture
def checkpoints(tmp_path):
    for step in (20, 100):
        folder = tmp_path / f"checkpoint-{step}"
        (folder / "nested").mkdir(parents=True)
        (folder / "model.safetensors").write_bytes(b"weights")
        (folder / "nested" / "state.json").write_text("{}")
        mark_complete(folder)
    return tmp_path


def test_the_latest_is_the_highest_step_not_the_last_name(checkpoints):
    assert checkpoint_step(latest_checkpoint(checkpoints)) == 100


def test_none_without_a_checkpoint(tmp_path):
    assert latest_checkpoint(tmp_path) is None


@pytest.mark.parametrize("damage", ["unmarked", "truncated", "missing"])
def test_a_half_written_checkpoint_does_not_count(checkpoints, damage):
    latest = checkpoints / "checkpoint-100"
    if damage == "unmarked":
        (latest / MARKER).unlink()
    elif damage == "truncated":
        (latest / "model.safetensors").write_bytes(b"weigh")
    else:
        (latest / "nested" / "state.json").unlink()
    assert not is_complete(latest)
    assert checkpoint_step(latest_checkpoint(checkpoints)) == 20


def test_keep_only_removes_the_others(checkpoints):
    keep_only(checkpoints / "checkpoint-20", checkpoints)
    assert [path.name for path in checkpoints.iterdir()] == ["checkpoint-20"]


def test_linking_replaces_what_a_killed_try_left(tmp_path):
    source, target = tmp_path / "source", tmp_path / "target"
    (source / "nested").mkdir(parents=True)
    (source / "nested" / "file").write_text("new")
    target.mkdir()
    (target / "leftover").write_text("old")
    link_folder(source, target)
    assert [path.name for path in target.iterdir()] == ["nested"]
    assert (target / "nested" / "file").read_text() == "new"
    assert (target / "nested" / "file").stat().st_nlink == 2
