"""The comparisons that the stages of this folder learn from."""

import pytest

from stages.records.tables import write_table
from tests.stages.step3_policy.rankings import make_comparison


@pytest.fixture
def comparisons(tmp_path):
    folder = tmp_path / "comparisons"
    write_table(folder / "train.parquet", [make_comparison(n) for n in range(12)])
    write_table(folder / "validation.parquet", [make_comparison(n) for n in range(2)])
    return folder
