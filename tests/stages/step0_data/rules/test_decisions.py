"""The rules of rows together, on cases made by hand; `prepare` runs them all."""

from collections import Counter

import numpy as np
import pytest

from stages.contracts import UserError
from stages.step0_data.rules.config import SplitConfig
from stages.step0_data.rules.near_duplicates import near_duplicates, rows_per_band
from tests.stages.step0_data.rules.examples import (
    comparison,
    demonstration,
    prepared,
    prompt,
    rules,
)


def texts(records) -> list[str]:
    return sorted(record.prompt[-1]["content"] for record in records)


def test_of_equal_rows_one_stays(tmp_path):
    rows = [prompt("a", "u1"), prompt("a", "u2"), prompt("b", "u1"), prompt("a", "u1")]
    ledger, tables = prepared(rows, rules(identical=True), tmp_path)
    assert texts(tables["train"]) == ["a", "b"]
    assert ledger.dropped == {"identical": 2}


def test_equal_prompts_with_other_responses_are_not_equal_rows(tmp_path):
    rows = [demonstration("a", "x"), demonstration("a", "y"), demonstration("a", "x")]
    ledger, tables = prepared(rows, rules(identical=True), tmp_path)
    assert sorted(row.response for row in tables["train"]) == ["x", "y"]
    assert ledger.dropped == {"identical": 1}


def test_of_prompts_that_share_a_long_prefix_one_stays(tmp_path):
    rows = [prompt(text) for text in ("abcde one", "abcde two", "abcd", "abcX", "abc", "abcdX")]
    ledger, tables = prepared(rows, rules(prefix_characters=5), tmp_path)
    assert ledger.dropped == {"common_prefix": 1}
    kept = texts(tables["train"])
    assert kept[:3] == ["abc", "abcX", "abcd"]
    assert kept[3] == "abcdX"
    assert kept[4] in ("abcde one", "abcde two")


def test_the_prefix_rule_keeps_all_rows_of_the_prompt_that_stays(tmp_path):
    rows = [comparison("abcde one", ["x", "y"], who) for who in ("l1", "l2")]
    rows += [comparison("abcde two", ["x", "y"], who) for who in ("l1", "l2")]
    ledger, tables = prepared(rows, rules(prefix_characters=5), tmp_path)
    assert ledger.dropped == {"common_prefix": 2}
    assert len(set(texts(tables["train"]))) == 1
    assert sorted(row.labeler for row in tables["train"]) == ["l1", "l2"]


def test_the_system_message_is_no_part_of_the_prefix(tmp_path):
    rows = [prompt("tell me of cats"), prompt("tell me of dogs")]
    for row in rows:
        row.prompt = [{"role": "system", "content": "You are a helpful machine."}, *row.prompt]
    ledger, _ = prepared(rows, rules(prefix_characters=15), tmp_path)
    assert not ledger.dropped


BASE = " ".join(f"word{i}" for i in range(40))


def test_of_near_duplicates_one_stays(tmp_path):
    pytest.importorskip("rensa")
    near = BASE.replace("word39", "other")  # one run of 38 differs: Jaccard 37/39 = 0.95
    half = " ".join(BASE.split()[:20] + [f"else{i}" for i in range(20)])  # 18/58 = 0.31
    rows = [prompt(BASE), prompt(near), prompt(half), prompt("short"), prompt("shorter")]
    ledger, tables = prepared(rows, rules(near_duplicates=0.8), tmp_path)
    assert ledger.dropped == {"near_duplicate": 1}
    assert {half, "short", "shorter"} < set(texts(tables["train"]))


def test_near_duplicates_equal_a_comparison_of_all_pairs():
    rng = np.random.default_rng(0)
    groups = rng.integers(0, 2**32, (30, 128), dtype=np.uint32)
    signatures = groups[rng.integers(0, 30, 200)]  # many alike, each changed in up to half
    for row in signatures:
        changed = rng.integers(0, 128, rng.integers(0, 64))
        row[changed] = rng.integers(0, 2**32, len(changed), dtype=np.uint32)
    order = rng.permutation(200).astype(np.uint64)
    stayed: list[int] = []
    for row in np.argsort(order):
        if all((signatures[row] == signatures[other]).mean() < 0.8 for other in stayed):
            stayed.append(row)
    out = near_duplicates(signatures, order, 0.8)
    assert sorted(np.flatnonzero(~out)) == sorted(stayed)
    assert 20 < len(stayed) < 180


def test_bands_are_long_where_the_threshold_is_high():
    # 1 - (1 - 0.8^4)^32 = 0.99999; with 8: 1 - (1 - 0.8^8)^16 = 0.947
    assert rows_per_band(0.8) == 4
    # 1 - (1 - 0.9^8)^16 = 0.9999; with 16: 1 - (1 - 0.9^16)^8 = 0.806
    assert rows_per_band(0.9) == 8


def test_a_user_keeps_no_more_prompts_than_the_limit(tmp_path):
    rows = [prompt(f"{user} {i}", user) for user in ("u1", "u2") for i in range(5)]
    rows += [prompt(f"nobody {i}") for i in range(5)] + [prompt("few", "u3")]
    ledger, tables = prepared(rows, rules(max_prompts_per_user=3), tmp_path)
    users = Counter(row.user for row in tables["train"])
    assert users == {"u1": 3, "u2": 3, None: 5, "u3": 1}
    assert ledger.dropped == {"over_user_limit": 4}


def test_the_limit_counts_prompts_not_rows(tmp_path):
    rows = [demonstration(f"p{i}", response, "u") for i in range(3) for response in "xyz"]
    _, tables = prepared(rows, rules(max_prompts_per_user=2), tmp_path)
    assert sorted(Counter(texts(tables["train"])).values()) == [3, 3]


def test_split_sizes_are_shares_or_numbers_of_rows(tmp_path):
    rows = [prompt(f"p{i}") for i in range(100)]
    _, tables = prepared(rows, rules(split=SplitConfig(validation=0.1, test=7)), tmp_path)
    assert {name: len(table) for name, table in tables.items()} == {
        "train": 83, "validation": 10, "test": 7,
    }  # fmt: skip


def test_a_split_that_no_user_fits_into_is_refused(tmp_path):
    rows = [prompt(f"p{i}", f"u{i % 2}") for i in range(10)]
    with pytest.raises(UserError, match="the validation split is empty"):
        prepared(rows, rules(split=SplitConfig(validation=2)), tmp_path)


def test_a_prompt_of_users_in_two_splits_stays_in_one(tmp_path):
    rows = [demonstration("shared", f"by {i}", f"u{i}") for i in range(20)]
    rows += [demonstration(f"own {i}", "x", f"u{i}") for i in range(20)]
    ledger, tables = prepared(rows, rules(split=SplitConfig(validation=0.5)), tmp_path)
    holders = [name for name, table in tables.items() if "shared" in texts(table)]
    assert len(holders) == 1
    assert ledger.dropped["prompt_in_other_split"] == 10
