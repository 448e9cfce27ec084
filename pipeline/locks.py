"""Locks held by a process and released by its death, with a note that says who holds them.

Beside `NAME.lock` lies `NAME.json`, the holder; a waiting process leaves `NAME.TOKEN.waits` so that
its driver can say for whom it waits.
"""

import json
import os
import socket
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field
from pathlib import Path

from filelock import FileLock, Timeout

from stages.contracts import InterruptedRunError, UserError

POLL_S = 0.5


@dataclass(frozen=True, kw_only=True)
class Holder:
    """Who holds a lock. run: for people; token: tells two executions of one run apart."""

    run: str
    token: str
    since: float = field(default_factory=time.time)
    process: int = field(default_factory=os.getpid)
    host: str = field(default_factory=socket.gethostname)

    def __str__(self) -> str:
        return f"{self.run} (process {self.process} on {self.host})"


@contextmanager
def lock(path: Path, holder: Holder, should_stop: Callable[[], bool]) -> Iterator[None]:
    """Hold the lock named by `path`; waits as long as another process holds it.

    Raises:
        InterruptedRunError: asked to stop while it waited.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(_beside(path, "lock"))
    waits = _beside(path, f"{holder.token}.waits")
    try:
        while not _try(file_lock):
            waits.touch()
            if should_stop():
                raise InterruptedRunError(f"stopped while waiting for {who_holds(path)}")
            time.sleep(POLL_S)
    finally:
        waits.unlink(missing_ok=True)
    yield from _held(path, file_lock, holder)


@contextmanager
def lock_now(path: Path, holder: Holder, what: str) -> Iterator[None]:
    """Hold the lock named by `path`, or refuse at once.

    Raises:
        UserError: another process holds it.
    """
    path.parent.mkdir(parents=True, exist_ok=True)
    file_lock = FileLock(_beside(path, "lock"))
    if not _try(file_lock):
        raise UserError(
            f"{what} is in use by another run",
            got=str(who_holds(path)),
            do="wait for it, or end it",
        )
    yield from _held(path, file_lock, holder)


def who_holds(path: Path) -> Holder | None:
    """The last holder that wrote its name; it may have died since."""
    try:
        return Holder(**json.loads(_beside(path, "json").read_text()))
    except (OSError, ValueError):
        return None


def is_waiting(path: Path, token: str) -> bool:
    """Whether the execution `token` stands in line for the lock."""
    return _beside(path, f"{token}.waits").exists()


def is_free(path: Path) -> bool:
    """Whether nobody holds the lock now."""
    if not _beside(path, "lock").exists():
        return True
    file_lock = FileLock(_beside(path, "lock"))
    if free := _try(file_lock):
        file_lock.release()
    return free


def _held(path: Path, file_lock: FileLock, holder: Holder) -> Iterator[None]:
    note = _beside(path, "json")
    try:
        scratch = _beside(path, "tmp")
        scratch.write_text(json.dumps(asdict(holder)))
        os.replace(scratch, note)
        yield
    finally:
        note.unlink(missing_ok=True)
        file_lock.release()


def _try(file_lock: FileLock) -> bool:
    try:
        file_lock.acquire(timeout=0)
    except Timeout:
        return False
    return True


def _beside(path: Path, suffix: str) -> Path:
    return path.with_name(f"{path.name}.{suffix}")
