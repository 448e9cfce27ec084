"""What a run costs: the peak over all processes, and that looking for it is cheap."""

import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

import psutil
import pytest

from pipeline.measuring import Meter

HELD = 300_000_000
HOLD = f"held = bytearray({HELD})"
SPUN_S = 0.5
SPIN = f"import time\nwhile time.process_time() < {SPUN_S}: pass"


@contextmanager
def child(code: str) -> Iterator[None]:
    """A process that has run `code` and lives as long as the block."""
    with subprocess.Popen(
        [sys.executable, "-c", f"{code}\nprint('ready', flush=True)\ninput()"],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
    ) as process:
        assert process.stdout is not None
        assert process.stdout.readline()
        yield
        process.communicate(b"\n")


def test_the_peak_is_that_of_all_processes_and_stays(monkeypatch: pytest.MonkeyPatch) -> None:
    """A child of 300 MB. Mutations: children left out; the last size instead of the largest."""
    meter = Meter()
    alone = meter.peak_pss_gb
    with child(HOLD):
        peak = meter.peak_pss_gb
    assert HELD / 1e9 < peak - alone < 1.2 * HELD / 1e9
    monkeypatch.setattr(Meter, "_resident", lambda *_: 10**15)
    assert meter.peak_pss_gb == peak  # looked at again, and less than before
    monkeypatch.setattr(Meter, "_resident", lambda *_: 0)
    looks: list[psutil.Process] = []
    monkeypatch.setattr(psutil.Process, "memory_full_info", looks.append)
    assert meter.peak_pss_gb == peak
    assert looks == []  # what is resident is below the peak: nothing else is asked


def test_the_time_of_a_process_that_ended_counts() -> None:
    """Mutation: the sum over those that live."""
    meter = Meter()
    before = meter.cpu_s
    with child(SPIN):
        assert meter.cpu_s - before >= SPUN_S
    assert meter.cpu_s - before >= SPUN_S
