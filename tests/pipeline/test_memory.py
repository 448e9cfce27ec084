"""What a stage's process holds when the stage is over."""

from pathlib import Path

import pytest

from pipeline.executors.memory import give_memory_back

BLOCK, BLOCKS = 100_000, 3_000  # smaller than what the C library maps apart: 300 MB of its heap


def resident_mb() -> float:
    fields = Path("/proc/self/status").read_text().split()
    return int(fields[fields.index("VmRSS:") + 1]) * 1024 / 1e6


@pytest.mark.skipif(not Path("/proc/self/status").exists(), reason="reads Linux's /proc")
def test_freed_memory_is_the_machines_again() -> None:
    """A block that stays at the heap's end keeps all before it, until it is given back."""
    blocks = [b"x" * BLOCK for _ in range(BLOCKS)]
    last = blocks[-1]
    del blocks
    held = resident_mb()
    give_memory_back()
    assert resident_mb() < held - 200
    assert len(last) == BLOCK
