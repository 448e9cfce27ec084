"""Which of a TRL trainer's checkpoints can be trusted.

The trainer writes a checkpoint as a folder of many files, not atomically. It counts only once a
marker stands in it: the list of files with their sizes, written after all of them are on disk.
"""

import json
import os
import shutil
from pathlib import Path

MARKER = "complete.json"


def mark_complete(checkpoint: Path) -> None:
    """Sync every file of the checkpoint to disk, then write its marker atomically."""
    files = [path for path in sorted(checkpoint.rglob("*")) if path.is_file()]
    for path in files:
        _sync(path)
    sizes = {str(path.relative_to(checkpoint)): path.stat().st_size for path in files}
    scratch = checkpoint / f"{MARKER}.tmp"
    scratch.write_text(json.dumps(sizes))
    _sync(scratch)
    os.replace(scratch, checkpoint / MARKER)
    _sync(checkpoint)
    _sync(checkpoint.parent)


def is_complete(checkpoint: Path) -> bool:
    """True if the marker is there and every file it lists has the size it lists."""
    marker = checkpoint / MARKER
    if not marker.is_file():
        return False
    sizes: dict[str, int] = json.loads(marker.read_text())
    paths = {checkpoint / name: size for name, size in sizes.items()}
    return all(path.is_file() and path.stat().st_size == size for path, size in paths.items())


def latest_checkpoint(folder: Path) -> Path | None:
    """The complete checkpoint of the highest step, or None."""
    complete = [path for path in folder.glob("checkpoint-*") if is_complete(path)]
    return max(complete, key=checkpoint_step, default=None)


def checkpoint_step(checkpoint: Path) -> int:
    """The optimizer steps done when this checkpoint was written."""
    return int(checkpoint.name.removeprefix("checkpoint-"))


def keep_only(checkpoint: Path | None, folder: Path) -> None:
    """Remove every other checkpoint in `folder`: older ones, and what a killed writer left."""
    for path in folder.glob("checkpoint-*"):
        if path != checkpoint:
            shutil.rmtree(path)


def _sync(path: Path) -> None:
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
