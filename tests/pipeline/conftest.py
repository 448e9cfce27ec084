"""The toy stages need no torch, so the entry need not prepare it."""

import pytest


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.executors.entry.prepare_process", lambda threads, seed: None)
