"""The small world for the reward stages."""

from pathlib import Path

import pytest

from stages.records.tables import write_table
from tests.stages.small_world import write_small_world
from tests.stages.step2_reward.ranked_world import comparison


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_small_world(tmp_path_factory.mktemp("world"))


@pytest.fixture
def comparisons(world: Path, tmp_path: Path) -> Path:
    folder = tmp_path / "comparisons"
    tied = comparison(world, 0, ranks=[1, 1])
    write_table(folder / "train.parquet", [*(comparison(world, n) for n in range(40)), tied])
    write_table(folder / "validation.parquet", [comparison(world, n) for n in range(40, 55)])
    return folder
