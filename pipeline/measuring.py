"""What a run costs: wall time, CPU time and peak memory over all of its processes."""

import threading
import time
from types import TracebackType
from typing import Self

import psutil

SAMPLE_EVERY_S = 2.0


class Meter:
    """Watches this process and all its descendants (Ray's daemons and workers among them).

    wall_s counts from the start of this process, so imports are in it, or from `restart`, which the
    next run of a sweep calls. cpu_s: user and system time, of ended processes as far as they were
    last seen. peak_pss_gb: largest sum of proportional set sizes (shared pages counted once; where
    the system does not know them, of unique set sizes), in 1e9 bytes, sampled every two seconds.
    """

    def __init__(self) -> None:
        self._self = psutil.Process()
        self._began = float(self._self.create_time())
        self._cpu: dict[tuple[int, float], float] = {}
        self._cpu_before = 0.0
        self._peak_bytes = 0
        self._stop = threading.Event()
        self._lock = threading.Lock()
        self._thread = threading.Thread(target=self._watch, name="meter", daemon=True)

    def __enter__(self) -> Self:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._stop.set()
        self._thread.join()

    def restart(self) -> None:
        """Count from now on."""
        self.sample()
        self._began, self._cpu_before = time.time(), sum(self._cpu.values())
        self._peak_bytes = 0

    @property
    def wall_s(self) -> float:
        """Seconds so far."""
        return time.time() - self._began

    @property
    def cpu_s(self) -> float:
        """CPU seconds of all processes so far."""
        self.sample()
        return sum(self._cpu.values()) - self._cpu_before

    @property
    def peak_pss_gb(self) -> float:
        """Peak memory so far."""
        self.sample()
        return self._peak_bytes / 1e9

    def sample(self) -> None:
        """Look at every process once.

        Proportional sizes cost 20 ms a GB, resident ones nothing, and sum to no less: below the
        peak so far they settle it.
        """
        with self._lock:
            processes = [self._self, *self._self.children(recursive=True)]
            if sum(map(self._resident, processes)) > self._peak_bytes:
                self._peak_bytes = max(self._peak_bytes, sum(map(_proportional, processes)))

    def _resident(self, process: psutil.Process) -> int:
        try:
            times, memory = process.cpu_times(), process.memory_info()
            self._cpu[process.pid, process.create_time()] = times.user + times.system
        except (psutil.NoSuchProcess, psutil.AccessDenied):
            return 0
        return int(memory.rss)

    def _watch(self) -> None:
        while not self._stop.wait(SAMPLE_EVERY_S):
            self.sample()


def _proportional(process: psutil.Process) -> int:
    try:
        memory = process.memory_full_info()
    except (psutil.NoSuchProcess, psutil.AccessDenied):
        return 0
    return int(memory.pss if psutil.LINUX else memory.uss)
