"""Sources mixed by weight: shares by hand, and which rows stay."""

from random import Random

import numpy as np
import pytest

from stages.contracts import UserError
from stages.records.schemas import Prompt
from stages.records.tables import read_table
from stages.step0_data.rules.config import SplitConfig
from stages.step0_data.rules.ledger import Sourced
from stages.step0_data.rules.mixing import shares
from stages.step0_data.rules.prepare import prepare
from tests.stages.step0_data.rules.examples import prompt, rules

ROWS = [Sourced(record=prompt(f"{name} {n}"), source=name) for name in "ab" for n in range(40)]


@pytest.mark.parametrize(
    ("sizes", "weights", "kept"),
    [
        ([100, 100], [1, 1], [100, 100]),
        ([100, 50], [1, 1], [50, 50]),  # b is the scarce one
        ([100, 50], [3, 1], [100, 33]),  # a is: 100 are three parts of four
        ([90, 10, 100], [1, 1, 2], [10, 10, 20]),
        ([100, 0], [1, 5], [100, 0]),  # nothing to mix with
        ([0, 0], [1, 1], [0, 0]),
    ],
)
def test_shares_by_hand(sizes, weights, kept):
    assert shares(np.array(sizes), np.array(weights, float)).tolist() == kept


def mixed(rows, folder, weights, seed=0, validation=0.0):
    folder.mkdir()
    config = rules(split=SplitConfig(validation=validation))
    ledger = prepare(rows, Prompt, config, seed, folder, weights)
    kept = read_table(folder / "train.parquet", Prompt)
    return ledger, {record.prompt[-1]["content"] for record in kept}


def test_every_row_is_kept_or_over_its_share(tmp_path):
    ledger, kept = mixed(ROWS, tmp_path / "one", {"a": 1.0, "b": 4.0})
    assert ledger.by_source == {"a": 10, "b": 40}
    assert ledger.dropped == {"over_its_share": 30}
    assert len(kept) == 50


def test_order_of_rows_does_not_matter_and_the_seed_does(tmp_path):
    weights = {"a": 1.0, "b": 4.0}
    _, kept = mixed(ROWS, tmp_path / "one", weights)
    shuffled = Random(1).sample(ROWS, len(ROWS))
    assert mixed(shuffled, tmp_path / "two", weights)[1] == kept
    assert mixed(ROWS, tmp_path / "three", weights, seed=1)[1] != kept


def test_each_split_is_mixed(tmp_path):
    ledger, _ = mixed(ROWS, tmp_path / "one", {"a": 1.0, "b": 1.0}, validation=0.25)
    held_out = read_table(tmp_path / "one" / "validation.parquet", Prompt)
    names = [record.prompt[-1]["content"][0] for record in held_out]
    assert names.count("a") == names.count("b") > 0
    assert ledger.by_source["a"] == ledger.by_source["b"]


def test_a_source_without_rows_is_told(tmp_path):
    with pytest.raises(UserError, match="the source c has no row left"):
        mixed(ROWS, tmp_path / "one", {"a": 1.0, "b": 1.0, "c": 1.0})
