"""The folder an export is written to: whole or not at all, and never over what is not an export."""

import errno
import os
import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from tempfile import mkdtemp

from stages.contracts import UserError

RECORD_FILE = "export.json"
FULL = (errno.ENOSPC, errno.EDQUOT)
FULL_WORDS = "No space left on device"  # safetensors has an error of its own


def check_target(target: Path, *, overwrite: bool, needed: int) -> None:
    """Refuse a place that holds something else, or a disk without `needed` bytes.

    Raises:
        UserError: either.
    """
    if target.exists() and not _is_empty(target):
        if not overwrite:
            raise UserError(
                f"{target} is there already", do="choose another --to, or add --overwrite"
            )
        if not (target / RECORD_FILE).is_file():
            raise UserError(
                f"{target} was not written by export",
                got=f"a folder without {RECORD_FILE}, or a file",
                do="choose another --to; --overwrite replaces exports alone",
            )
    existing = next(path for path in (target, *target.parents) if path.exists())
    free = shutil.disk_usage(existing).free
    if free < needed:
        raise _disk_full(target, f"{free / 1e9:.2f} GB free, {needed / 1e9:.2f} GB needed")


@contextmanager
def new_folder(target: Path) -> Iterator[Path]:
    """A folder beside `target` that takes its place when the block ends well, else is removed."""
    target.parent.mkdir(parents=True, exist_ok=True)
    scratch = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    try:
        yield scratch
        _settle(scratch)
        _replace(scratch, target)
    except Exception as error:
        if getattr(error, "errno", None) in FULL or FULL_WORDS in str(error):
            raise _disk_full(target, str(error)) from None
        raise
    finally:
        shutil.rmtree(scratch, ignore_errors=True)


def _settle(folder: Path) -> None:
    """Have every file on the disk, as readable as any new one: some tools write for the owner."""
    umask = os.umask(0)
    os.umask(umask)
    for path in (*folder.rglob("*"), folder):
        path.chmod((0o777 if path.is_dir() else 0o666) & ~umask)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


def _replace(scratch: Path, target: Path) -> None:
    if not target.exists():
        os.rename(scratch, target)
        return
    old = Path(mkdtemp(prefix=f".{target.name}-", dir=target.parent))
    os.rename(target, old / target.name)
    os.rename(scratch, target)
    shutil.rmtree(old)


def _is_empty(target: Path) -> bool:
    return target.is_dir() and not any(target.iterdir())


def _disk_full(target: Path, got: str) -> UserError:
    return UserError(
        f"the disk has no room for {target}", got=got, do="free some, or choose another --to"
    )
