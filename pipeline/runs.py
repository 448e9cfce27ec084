"""Finding runs, and the one lock that keeps two commands out of one run folder."""

import hashlib
import os
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from omegaconf import OmegaConf

from pipeline.errors import nearest
from pipeline.locks import Holder, is_free, lock_now
from pipeline.summary import RUN_FILE
from stages.contracts import UserError

CONFIG_FILE = "config.yaml"
DRIVER = "driver"
KEPT = "runs"  # in the store: one note a run, with its folder


def all_runs(runs_dir: Path) -> list[Path]:
    """The folders of all runs, the newest last."""
    return sorted(
        (path.parent for path in runs_dir.glob(f"*/{RUN_FILE}")),
        key=lambda folder: (folder / RUN_FILE).stat().st_mtime,
    )


def find_run(named: str, runs_dir: Path) -> Path:
    """A run's folder by its path, its id, or the beginning of its id.

    Raises:
        UserError: there is none, or the beginning fits several.
    """
    for folder in (runs_dir / named, Path(named)):
        if (folder / RUN_FILE).is_file():
            return folder
    names = [folder.name for folder in all_runs(runs_dir)]
    fitting = [name for name in names if name.startswith(named)]
    if len(fitting) == 1:
        return runs_dir / fitting[0]
    if fitting:
        do = f"one of {', '.join(fitting)}"
        raise UserError("several runs begin like this", got=named, do=do)
    do = nearest(named, names) if names else "make one: python -m pipeline run +experiment=ppo_ptx"
    raise UserError(f"there is no such run in {runs_dir}", got=named, do=do)


def read_config(folder: Path) -> dict[str, Any]:
    """The config a run was started with, as written: an older version may have had other keys."""
    path = folder / CONFIG_FILE
    if not path.is_file():
        raise UserError(f"{folder} holds no {CONFIG_FILE}", do="start the run again")
    config = OmegaConf.to_container(OmegaConf.load(path))
    assert isinstance(config, dict)
    return {str(key): value for key, value in config.items()}


@contextmanager
def locked(folder: Path) -> Iterator[None]:
    """Hold a run's folder; its lock ends with this process, however that ends.

    Raises:
        UserError: another command works in it.
    """
    holder = Holder(run=folder.name, token=str(os.getpid()))
    with lock_now(folder / DRIVER, holder, f"the run folder {folder}"):
        yield


def is_at_work(folder: Path) -> bool:
    """Whether a command holds the run's folder now."""
    return (folder / f"{DRIVER}.lock").exists() and not is_free(folder / DRIVER)


def remember_run(store: Path, folder: Path) -> None:
    """Note in the store that this run needs its artifacts: `gc` looks wherever runs lie."""
    notes = store / KEPT
    notes.mkdir(parents=True, exist_ok=True)
    path = str(folder.absolute())
    (notes / hashlib.sha256(path.encode()).hexdigest()[:16]).write_text(path)


def kept_runs(store: Path, runs_dir: Path) -> list[Path]:
    """The folders of all runs that used this store and were not deleted."""
    noted = {Path(note.read_text()) for note in (store / KEPT).glob("*")}
    here = {folder.absolute() for folder in all_runs(runs_dir)}
    return sorted(folder for folder in noted | here if (folder / RUN_FILE).is_file())
