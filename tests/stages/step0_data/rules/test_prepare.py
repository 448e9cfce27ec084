"""Every row is accounted for; splits keep users and prompts together; the order does not count."""

from collections import Counter
from dataclasses import astuple
from pathlib import Path
from random import Random
from tempfile import TemporaryDirectory

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.contracts import UserError
from stages.records.schemas import Demonstration, Prompt
from stages.step0_data.rules.config import (
    ContaminationConfig,
    LengthConfig,
    RulesConfig,
    SplitConfig,
)
from stages.step0_data.rules.ledger import Sourced
from stages.step0_data.rules.prepare import prepare
from tests.stages.step0_data.rules.examples import demonstration, prepared, prompt, rules

WORDS = ["sea", "old", "man", "boat", "fish", "net"]
rows_of_a_few_words = st.lists(
    st.builds(
        demonstration,
        st.lists(st.sampled_from(WORDS), min_size=1, max_size=5).map(" ".join),
        st.sampled_from(["yes", "no", "a long answer"]),
        st.sampled_from([None, "u1", "u2", "u3", "u4"]),
    ),
    min_size=1,
    max_size=40,
)
all_rules = st.builds(
    RulesConfig,
    identical=st.booleans(),
    prefix_characters=st.sampled_from([0, 3, 8]),
    near_duplicates=st.sampled_from([0.0, 0.5]),
    max_prompts_per_user=st.sampled_from([0, 1, 3]),
    length=st.builds(
        LengthConfig, max_prompt=st.sampled_from([0, 4]), max_response=st.sampled_from([0, 2])
    ),
    split=st.builds(
        SplitConfig, validation=st.sampled_from([0, 0.2, 3]), test=st.sampled_from([0, 0.3])
    ),
    contamination=st.builds(ContaminationConfig, ngram=st.just(2), drop=st.booleans()),
)


@settings(max_examples=30, deadline=None)
@given(records=rows_of_a_few_words, config=all_rules, seed=st.integers(0, 3))
def test_no_row_is_lost_and_nobody_stands_in_two_splits(records, config, seed):
    pytest.importorskip("rensa")
    with TemporaryDirectory() as folder:
        try:
            ledger, tables = prepared(records, config, Path(folder), seed)
        except UserError as refused:
            told = refused.what
            ledger, tables = None, {}
    if ledger is None:
        assert "empty" in told or "is left" in told
        return
    kept = [row for table in tables.values() for row in table]
    assert len(records) == len(kept) + ledger.dropped.total()
    assert not Counter(map(repr, kept)) - Counter(map(repr, records))  # nothing was made up
    for of in (lambda row: repr(row.prompt), lambda row: row.user):
        splits = [{of(row) for row in table} - {None} for table in tables.values()]
        assert sum(map(len, splits)) == len(set().union(*splits))


def test_the_order_of_the_rows_does_not_count(tmp_path):
    pytest.importorskip("rensa")
    rng, users = Random(0), ["a", "b", "c", None]
    records = [
        demonstration(" ".join(rng.choices(WORDS, k=4)), rng.choice("xyz"), rng.choice(users))
        for _ in range(300)
    ]
    config = RulesConfig(
        prefix_characters=14,
        near_duplicates=0.6,
        max_prompts_per_user=20,
        split=SplitConfig(validation=0.4),
    )
    ledger, tables = prepared(records, config, tmp_path / "a")
    assert {*ledger.dropped} >= {"identical", "common_prefix", "near_duplicate", "over_user_limit"}
    for number in range(3):
        rng.shuffle(records)
        again, others = prepared(records, config, tmp_path / f"b{number}")
        assert again.dropped == ledger.dropped
        for split, table in tables.items():
            assert sorted(map(repr, others[split])) == sorted(map(repr, table))
    other_seed, _ = prepared(records, config, tmp_path / "c", seed=1)
    assert other_seed.read == ledger.read


def test_figures_name_every_reason_and_source(tmp_path):
    rows = [
        Sourced(record=prompt("a", "u1"), source="web"),
        Sourced(record=prompt("a", "u2"), source="lab"),
        Sourced(record=prompt("one two three", "u1"), source="lab"),
        Sourced(record=prompt("b", "u3"), source="lab", split="test"),
    ]
    config = rules(identical=True, length=LengthConfig(max_prompt=2))
    metrics = prepare(rows, Prompt, config, 0, tmp_path).metrics()
    source = "web" if "source_web_rows" in metrics else "lab"
    expected = {
        "rows_read": 4, "train_rows": 1, "test_rows": 1, "train_users": 1, "test_users": 1,
        "dropped_identical": 1, "dropped_prompt_too_long": 1, "contaminated_test": 0,
    }  # fmt: skip
    assert {name: metrics[name] for name in expected} == expected
    assert metrics[f"source_{source}_rows"] >= 1
    assert not (tmp_path / "rows.parquet").exists()


def test_a_split_that_a_source_brings_is_not_drawn_from_others(tmp_path):
    rows = [Sourced(record=prompt(f"p{i}")) for i in range(20)]
    rows += [Sourced(record=prompt(f"v{i}"), split="validation") for i in range(3)]
    config = rules(split=SplitConfig(validation=0.5, test=0.1))
    ledger = prepare(rows, Prompt, config, 0, tmp_path)
    assert ledger.kept == {"train": 18, "validation": 3, "test": 2}


def test_examples_show_what_went_and_why(tmp_path):
    records = [prompt(f"{i} " + "word " * 400) for i in range(9)] + [prompt("short")]
    ledger, _ = prepared(records, rules(length=LengthConfig(max_prompt=9)), tmp_path)
    assert len(ledger.examples) == 5
    assert {example["reason"] for example in ledger.examples} == {"prompt_too_long"}
    assert all(len(example["prompt"]) == 300 for example in ledger.examples)


def test_no_row_left_is_told_with_the_counts(tmp_path):
    config = rules(length=LengthConfig(max_prompt=1))
    with pytest.raises(UserError, match="no row is left") as told:
        prepared([prompt("a b")], config, tmp_path)
    assert "prompt_too_long" in told.value.got


def test_records_are_kept_whole(tmp_path):
    record = Demonstration(
        prompt=[
            {"role": "system", "content": "s"},
            {"role": "user", "content": "q"},
            {"role": "assistant", "content": "a"},
            {"role": "user", "content": "q2"},
        ],
        response="r\nr",
        user="u",
        labeler="l",
    )
    _, tables = prepared([record], rules(), tmp_path)
    assert astuple(tables["train"][0]) == astuple(record)
