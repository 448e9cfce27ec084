"""Where an export is written: whole or not at all, never over what is not an export."""

import errno
from pathlib import Path
from types import SimpleNamespace

import pytest

from pipeline.exporting.target import RECORD_FILE, check_target, new_folder
from stages.contracts import UserError


def test_a_folder_takes_its_place_when_it_is_whole(tmp_path: Path) -> None:
    with new_folder(tmp_path / "a" / "out") as folder:
        (folder / "file").write_text("x")
        (folder / "file").chmod(0o600)
        assert not (tmp_path / "a" / "out").exists()
    assert [p.name for p in (tmp_path / "a").iterdir()] == ["out"]
    assert (tmp_path / "a" / "out" / "file").read_text() == "x"
    fresh = tmp_path / "fresh"
    fresh.touch()
    assert (tmp_path / "a" / "out" / "file").stat().st_mode == fresh.stat().st_mode


def test_a_failure_leaves_nothing_and_the_older_one_stands(tmp_path: Path) -> None:
    with new_folder(tmp_path / "out") as folder:
        (folder / RECORD_FILE).write_text("old")
    with pytest.raises(FileNotFoundError), new_folder(tmp_path / "out") as folder:
        (folder / RECORD_FILE).write_text((folder / "missing").read_text())
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert (tmp_path / "out" / RECORD_FILE).read_text() == "old"


def test_an_older_export_is_replaced_whole(tmp_path: Path) -> None:
    for name in ("first", RECORD_FILE):
        with new_folder(tmp_path / "out") as folder:
            (folder / name).write_text(name)
    assert [p.name for p in tmp_path.iterdir()] == ["out"]
    assert [p.name for p in (tmp_path / "out").iterdir()] == [RECORD_FILE]


def test_what_is_there_is_not_overwritten_unless_export_wrote_it(tmp_path: Path) -> None:
    target = tmp_path / "out"
    check_target(target, overwrite=False, needed=1)
    target.mkdir()
    check_target(target, overwrite=False, needed=1)  # an empty folder
    (target / "thesis.tex").touch()
    with pytest.raises(UserError, match="is there already"):
        check_target(target, overwrite=False, needed=1)
    with pytest.raises(UserError, match="was not written by export"):
        check_target(target, overwrite=True, needed=1)
    (target / RECORD_FILE).touch()
    check_target(target, overwrite=True, needed=1)
    with pytest.raises(UserError, match="was not written by export"):
        check_target(target / "thesis.tex", overwrite=True, needed=1)


def test_a_disk_without_room_is_told_before_and_while_writing(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for error in (
        OSError(errno.ENOSPC, "No space left on device"),
        RuntimeError("SafetensorError: No space left on device (os error 28)"),
    ):
        with pytest.raises(UserError, match="no room"), new_folder(tmp_path / "out"):
            raise error
    assert list(tmp_path.iterdir()) == []
    usage = SimpleNamespace(free=1_999_999_999)
    monkeypatch.setattr("pipeline.exporting.target.shutil.disk_usage", lambda path: usage)
    with pytest.raises(UserError) as caught:
        check_target(tmp_path / "new" / "out", overwrite=False, needed=2_000_000_000)
    assert caught.value.got == "2.00 GB free, 2.00 GB needed"
