"""What a rank notes of its memory outlives it, and lets the folder it lies in be removed."""

import shutil
import threading
import time
from pathlib import Path

import pytest

from stages.lm import workers


def test_a_removed_folder_stays_removed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Mutation: opening the file anew for each note brings it back, and `rmtree` may fail."""
    monkeypatch.setattr(workers, "MEMORY_EVERY_S", 0.01)
    log = tmp_path / "ppo" / "policy_0.txt"
    log.parent.mkdir()
    noting = threading.Thread(
        target=workers._note_memory, args=[workers.memory_file(log)], daemon=True
    )
    noting.start()
    for _ in range(200):
        time.sleep(0.01)
        if "GiB used" in workers.last_memory(log):
            break
    assert "GiB free on the node" in workers.last_memory(log)
    shutil.rmtree(log.parent)
    log.parent.mkdir()
    time.sleep(0.2)
    assert not list(log.parent.iterdir())
