"""What the tests of the pipeline share: toy stages need no torch, and logging stays as it was."""

import logging
from collections.abc import Iterator

import pytest


@pytest.fixture
def without_torch(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("pipeline.executors.entry.prepare_process", lambda threads, seed: None)


@pytest.fixture(autouse=True)
def unchanged_logging() -> Iterator[None]:
    """Hydra's --info turns the root logger to DEBUG, on a stream that pytest then closes."""
    root = logging.getLogger()
    level, handlers = root.level, list(root.handlers)
    yield
    root.setLevel(level)
    root.handlers[:] = handlers
