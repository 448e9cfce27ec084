from stages.records.schemas import Prompt
from stages.records.tables import read_table, write_table
from stages.step0_data.rules.config import ContaminationConfig
from stages.step0_data.rules.contamination import HeldOutPrompts
from stages.step0_data.rules.ledger import Sourced
from stages.step0_data.rules.prepare import prepare
from tests.stages.step0_data.rules.examples import (
    comparison,
    demonstration,
    prepared,
    prompt,
    rules,
)

LONG = "tell me in ten words or less why the sky is blue at noon"  # 14 words: 7 runs of 8


def held_out(*texts: str, **changes: float) -> HeldOutPrompts:
    index = HeldOutPrompts(ContaminationConfig(**changes))
    for text in texts:
        index.add(text, "test")
    return index


def test_equal_prompts_match_whatever_their_case_and_punctuation():
    index = held_out("What is 2 + 2?", LONG)
    assert index.matches("what is 2 2") == [0]
    assert index.matches("what is 2 3") == []
    assert index.figures() == {"contaminated_test": 1.0}


def test_long_runs_in_common_match():
    index = held_out(LONG)
    assert index.matches(f"Please {LONG}, and then stop.") == [0]
    words = LONG.split()
    assert index.matches(" ".join(words[:11])) == [0]  # 4 of 7 runs
    assert index.matches(" ".join(words[:10])) == []  # 3 of 7


def test_without_overlap_only_equal_prompts_match():
    assert held_out(LONG, overlap=0).matches(f"Please {LONG}") == []


def test_the_words_of_a_template_do_not_match():
    template = "answer the question below in one short sentence of plain text"
    index = held_out(*(f"{template} {i}" for i in range(11)))
    assert index.matches(f"{template} 99") == []
    few = held_out(*(f"{template} {i}" for i in range(3)))
    assert few.matches(f"{template} 99") == [0, 1, 2]


def test_contaminated_rows_are_counted_and_leave_train(tmp_path):
    given = [
        ("a b", "train"),
        ("A, b!", "test"),
        ("c", "train"),
        ("d", "test"),
        ("c", "validation"),
    ]
    rows = [Sourced(record=prompt(text), split=split) for text, split in given]
    for drop in (True, False):
        config = rules(contamination=ContaminationConfig(drop=drop))
        ledger = prepare([*rows, Sourced(record=prompt("e"))], Prompt, config, 0, tmp_path)
        assert ledger.contaminated == {"contaminated_test": 1.0, "contaminated_validation": 1.0}
        assert ledger.dropped == ({"contaminated": 2} if drop else {})
        left = [row.prompt[0]["content"] for row in read_table(tmp_path / "train.parquet", Prompt)]
        assert left == (["e"] if drop else ["a b", "c", "e"])


def test_the_prompts_of_another_table_are_held_out_as_well(tmp_path):
    other = tmp_path / "other" / "test.parquet"
    write_table(other, [comparison("a b", ["x", "y"]), comparison("z", ["x", "y"])])
    against = ContaminationConfig(against=str(other))
    records = [demonstration("A b", "x"), demonstration("c", "x")]
    ledger, tables = prepared(records, rules(contamination=against), tmp_path / "out")
    assert tables["train"] == records[1:]
    assert ledger.contaminated == {"contaminated_against": 1.0}
