"""The small world for the evaluation."""

from pathlib import Path

import pytest

from tests.stages.small_world import write_small_world


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_world(tmp_path_factory.mktemp("world"))
