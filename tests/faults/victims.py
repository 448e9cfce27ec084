"""The processes of a run, found from outside: Ray writes what a worker does into its title."""

import os
import re
import signal
import time
from collections.abc import Callable
from contextlib import suppress

import psutil

from tests.faults.plan import PHASES

RANK = re.compile(r"ray::ppo/(\w+\[\d+\])")
STAGE = "ray::policy"
POLL_S = 0.002


def title(pid: int) -> str:
    """What a process says it is doing; empty when it is gone."""
    try:
        with open(f"/proc/{pid}/cmdline") as file:
            return file.read().rstrip("\0 ")
    except OSError:
        return ""


def descendants(pid: int) -> list[int]:
    """Processes below this one."""
    with suppress(psutil.NoSuchProcess):
        return [child.pid for child in psutil.Process(pid).children(recursive=True)]
    return []


class Ranks:
    """The stage's task and the ranks, by name, below the processes `roots`."""

    def __init__(self, roots: Callable[[], list[int]]) -> None:
        self.roots = roots
        self.pids: dict[str, int] = {}

    def look(self) -> None:
        """A rank shows its name while it answers a call; between calls it does not."""
        for root in self.roots():
            for pid in descendants(root):
                said = title(pid)
                if match := RANK.match(said):
                    self.pids[match.group(1)] = pid
                elif said == STAGE:
                    self.pids["stage"] = pid

    def phase(self) -> str | None:
        """The phase of the loop that any rank is in."""
        for pid in self.pids.values():
            method = title(pid).rpartition(".")[2]
            for phase, methods in PHASES.items():
                if method in methods:
                    return phase
        return None


def wait_until(due: Callable[[], bool], alive: Callable[[], bool], limit_s: float = 300) -> None:
    """Poll faster than a phase lasts."""
    deadline = time.monotonic() + limit_s
    while not due():
        assert alive(), "the run ended before the kill"
        assert time.monotonic() < deadline, "the moment to kill never came"
        time.sleep(POLL_S)


def kill(pid: int) -> None:
    """SIGKILL."""
    with suppress(ProcessLookupError):
        os.kill(pid, signal.SIGKILL)
