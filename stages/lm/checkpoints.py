"""Stage checkpoints: whole or not at all, and loaded without pickle.

A checkpoint is a folder that one or many processes write into, under another name. A manifest of
all files' sizes comes last, everything is synced, and one rename makes it a checkpoint: a kill or a
full disk at any moment leaves the one before. `torch.load(weights_only=True)` reads tensors and
plain values only.
"""

import json
import os
import random
import shutil
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch

from stages.contracts import UserError, WorkerError

STATE_FILE, MANIFEST_FILE = "state.pt", "manifest.json"


class Checkpoints:
    """The checkpoints of one stage, in one folder; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep
        folder.mkdir(parents=True, exist_ok=True)

    def save(
        self,
        step: int,
        state: dict[str, Any],
        write_more: Callable[[Path], None] = lambda _: None,
    ) -> None:
        """Write the state after `step` steps, then drop what is older than the newest `keep`.

        write_more: writes, or has other processes write, further files into the folder it is given.
        """
        scratch = self.folder / "writing.tmp"
        shutil.rmtree(scratch, ignore_errors=True)
        scratch.mkdir()
        with disk_errors(scratch):
            write_more(scratch)
            write_state(state, scratch / STATE_FILE)
            write_manifest(scratch)
        target = self.path(step)
        shutil.rmtree(target, ignore_errors=True)  # of a run that was told to begin before it
        os.replace(scratch, target)
        sync(self.folder)
        for path in self._saved()[: -self.keep]:
            shutil.rmtree(path)

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint as (step, state), or None at a fresh start."""
        saved = self._saved()
        if not saved:
            return None
        state = read_state(saved[-1] / STATE_FILE)
        return int(saved[-1].name.removeprefix("step_")), state

    def path(self, step: int) -> Path:
        """The folder of a checkpoint."""
        return self.folder / f"step_{step:09d}"

    def _saved(self) -> list[Path]:
        """Whole ones, the newest last."""
        return [path for path in sorted(self.folder.glob("step_*")) if is_whole(path)]


def write_state(state: dict[str, Any], path: Path) -> None:
    """Tensors and plain values into a file, synced."""
    path.parent.mkdir(parents=True, exist_ok=True)
    with path.open("wb") as file:
        torch.save(state, file)
        file.flush()
        os.fsync(file.fileno())


def read_state(path: Path) -> dict[str, Any]:
    """What `write_state` wrote, on the CPU."""
    state: dict[str, Any] = torch.load(path, weights_only=True, map_location="cpu")
    return state


def write_manifest(folder: Path) -> None:
    """Name and size of every file below; files and folders synced."""
    sizes = {}
    for path in sorted(folder.rglob("*")):
        sync(path)
        if path.is_file():
            sizes[str(path.relative_to(folder))] = path.stat().st_size
    with (folder / MANIFEST_FILE).open("w") as file:
        json.dump(sizes, file)
        file.flush()
        os.fsync(file.fileno())
    sync(folder)


def is_whole(folder: Path) -> bool:
    """Whether all files are there in the size they were written."""
    manifest = folder / MANIFEST_FILE
    if not manifest.is_file():
        return False
    sizes = json.loads(manifest.read_text())
    return all(
        (folder / name).is_file() and (folder / name).stat().st_size == size
        for name, size in sizes.items()
    )


def sync(path: Path) -> None:
    """Have a file or folder on the disk before going on."""
    descriptor = os.open(path, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


@contextmanager
def disk_errors(folder: Path) -> Iterator[None]:
    """Around writing into `folder`: a UserError if that fails, and nothing is left there.

    torch reports a full disk as a RuntimeError.
    """
    try:
        yield
    except WorkerError:
        raise
    except (OSError, RuntimeError) as error:
        shutil.rmtree(folder, ignore_errors=True)
        raise UserError(
            "a checkpoint cannot be written",
            got=f"{type(error).__name__}: {error}",
            do=f"free space in {folder.parent}; earlier checkpoints are whole, and the same "
            "command continues from the latest",
        ) from error


def rng_state() -> dict[str, Any]:
    """The state of Python's, NumPy's and torch's generators, as tensors and plain values."""
    numpy_state: Any = np.random.get_state()  # noqa: NPY002  # libraries draw from it
    python_state = random.getstate()
    return {
        "python": [python_state[0], list(python_state[1]), python_state[2]],
        "numpy": [str(numpy_state[0]), numpy_state[1].tolist(), *map(float, numpy_state[2:])],
        "torch": torch.get_rng_state(),
    }


def restore_rng(state: dict[str, Any]) -> None:
    """Put the generators back to where `rng_state` found them."""
    version, words, gauss = state["python"]
    random.setstate((version, tuple(words), gauss))
    name, keys, position, has_gauss, cached = state["numpy"]
    restored = (name, np.array(keys, dtype=np.uint32), int(position), int(has_gauss), cached)
    np.random.set_state(restored)  # noqa: NPY002  # see rng_state
    torch.set_rng_state(state["torch"])
