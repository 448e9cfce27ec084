"""Stage checkpoints: whole or not at all, and loaded without pickle.

A checkpoint is one file, written beside its name, synced and renamed, so a kill at any moment
leaves the one before it. `torch.load(weights_only=True)` reads tensors and plain values only.
"""

import os
import random
from pathlib import Path
from typing import Any

import numpy as np
import torch


class Checkpoints:
    """The checkpoints of one stage, in one folder; the newest `keep` are kept."""

    def __init__(self, folder: Path, keep: int = 1) -> None:
        self.folder, self.keep = folder, keep
        folder.mkdir(parents=True, exist_ok=True)

    def save(self, step: int, state: dict[str, Any]) -> None:
        """Write the state after `step` steps, then drop what is older than the newest `keep`."""
        scratch = self.folder / "writing.tmp"
        with scratch.open("wb") as file:
            torch.save(state, file)
            file.flush()
            os.fsync(file.fileno())
        os.replace(scratch, self._path(step))
        self._sync_folder()
        for path in self._saved()[: -self.keep]:
            path.unlink()

    def load_latest(self) -> tuple[int, dict[str, Any]] | None:
        """The newest checkpoint as (step, state), or None at a fresh start."""
        saved = self._saved()
        if not saved:
            return None
        state: dict[str, Any] = torch.load(saved[-1], weights_only=True, map_location="cpu")
        return int(saved[-1].stem.removeprefix("step_")), state

    def _path(self, step: int) -> Path:
        return self.folder / f"step_{step:09d}.pt"

    def _saved(self) -> list[Path]:
        return sorted(self.folder.glob("step_*.pt"))

    def _sync_folder(self) -> None:
        descriptor = os.open(self.folder, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)


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
