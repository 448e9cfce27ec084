"""Checkpoints are whole or not there, whatever happens while one is written."""

import resource
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest
import torch

from stages.contracts import UserError, WorkerError
from stages.lm.checkpoints import Checkpoints, write_state


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def test_a_kill_during_a_save_leaves_the_checkpoint_before_it(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"x": torch.ones(2)})
    (tmp_path / "writing.tmp").mkdir()
    (tmp_path / "writing.tmp" / "state.pt").write_bytes(b"half a checkpo")
    assert latest(checkpoints) == (3, [1, 1])
    checkpoints.save(4, {"x": torch.zeros(2)})
    assert names(tmp_path) == ["step_000000004"]


def latest(checkpoints: Checkpoints) -> tuple[int, list[float]]:
    found = checkpoints.load_latest()
    assert found is not None
    return found[0], found[1]["x"].tolist()


@contextmanager
def files_of_at_most(size: int) -> Iterator[None]:
    """The kernel refuses to write more, as it does on a full disk."""
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        yield
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))


def test_a_write_that_fails_loses_no_earlier_checkpoint(tmp_path: Path) -> None:
    """Mutation: older ones dropped before the new one is whole."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"x": torch.ones(2)})
    with files_of_at_most(100_000), pytest.raises(UserError, match="cannot be written") as caught:
        checkpoints.save(4, {"x": torch.zeros(1_000_000)})
    assert "free space" in caught.value.do
    assert names(tmp_path) == ["step_000000003"]
    assert latest(checkpoints) == (3, [1, 1])


def test_several_write_into_one(tmp_path: Path) -> None:
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(
        5, {"x": torch.ones(1)}, lambda folder: write_state({"y": 2}, folder / "policy" / "a.pt")
    )
    assert names(checkpoints.path(5)) == ["manifest.json", "policy", "state.pt"]
    assert (checkpoints.path(5) / "policy" / "a.pt").is_file()


def test_a_lost_worker_is_no_full_disk(tmp_path: Path) -> None:
    """It goes on as it is, so that the group is rebuilt. Mutation: caught as a RuntimeError."""
    checkpoints = Checkpoints(tmp_path)
    checkpoints.save(3, {"x": torch.ones(2)})

    def lost(folder: Path) -> None:
        raise WorkerError("ppo/policy[1] died")

    with pytest.raises(WorkerError):
        checkpoints.save(4, {"x": torch.zeros(2)}, lost)
    assert latest(checkpoints) == (3, [1, 1])


@pytest.mark.parametrize("damage", ["cut", "gone"])
def test_what_is_not_whole_is_passed_over(tmp_path: Path, damage: str) -> None:
    """Mutation: the manifest not looked at."""
    checkpoints = Checkpoints(tmp_path, keep=2)
    checkpoints.save(3, {"x": torch.ones(2)})
    checkpoints.save(4, {"x": torch.zeros(2)})
    path = checkpoints.path(4) / "state.pt"
    if damage == "cut":
        path.write_bytes(path.read_bytes()[:-1])
    else:
        path.unlink()
    assert latest(checkpoints) == (3, [1, 1])
