"""Formats of demonstrations and of text."""

from pathlib import Path
from typing import Any

import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison, Demonstration, Message, Prompt, Text
from tests.stages.records.sources import read, read_rows


def user(content: str) -> list[Message]:
    return [{"role": "user", "content": content}]


def test_alpaca(tmp_path: Path) -> None:
    row = {"instruction": "Add.", "input": "", "output": "4", "text": "Below is ..."}
    rows = [row, row | {"input": "2 and 2"}, row | {"output": ""}]
    records, account = read_rows(Demonstration, tmp_path, rows, adapter="alpaca")
    assert records == [
        Demonstration(prompt=user("Add."), response="4"),
        Demonstration(prompt=user("Add.\n\n2 and 2"), response="4"),
    ]
    assert account.dropped == {"an empty response": 1}
    texts, _ = read_rows(Text, tmp_path, rows, adapter="alpaca")
    assert texts == [Text(text="Add.\n\n4"), Text(text="Add.\n\n2 and 2\n\n4")]
    prompts, _ = read_rows(Prompt, tmp_path, rows, adapter="alpaca")
    assert prompts[1] == Prompt(prompt=user("Add.\n\n2 and 2"))
    with pytest.raises(UserError, match="makes no comparison"):
        read_rows(Comparison, tmp_path, rows, adapter="alpaca")


def test_a_text_of_named_columns_is_one_or_the_turns_of_a_demonstration(tmp_path: Path) -> None:
    rows = [{"text": "A tale."}, {"ask": "Add.", "answer": "4"}, {"text": "B", "answer": "5"}]
    named = {"prompt": "ask", "response": "answer"}
    texts, _ = read_rows(Text, tmp_path, rows[1:2], adapter="generic", columns=named)
    assert texts == [Text(text="Add.\n\n4")]
    texts, _ = read_rows(Text, tmp_path, [rows[0], rows[2]], adapter="generic", columns=named)
    assert texts == [Text(text="A tale."), Text(text="B")]
    with pytest.raises(UserError, match="field text"):
        read_rows(Text, tmp_path, [{"story": "C"}], adapter="generic")


def test_dolly(tmp_path: Path) -> None:
    row = {"instruction": "Who?", "context": "Ann.", "response": "Ann", "category": "closed_qa"}
    rows = [row, row | {"context": "", "category": "open_qa"}]
    records, account = read_rows(
        Demonstration, tmp_path, rows, adapter="dolly", options={"category": "closed_qa"}
    )
    assert records == [Demonstration(prompt=user("Who?\n\nAnn."), response="Ann")]
    assert account.dropped == {"another category": 1}


def share(*turns: tuple[str, str]) -> dict[str, Any]:
    return {"id": "x", "conversations": [{"from": who, "value": said} for who, said in turns]}


def test_sharegpt(tmp_path: Path) -> None:
    rows = [
        share(("human", "Hi"), ("gpt", "Hello"), ("human", "Why?"), ("gpt", "So"), ("human", "Oh")),
        share(("gpt", "I am here"), ("system", "Be kind"), ("human", "Hi"), ("gpt", "Hello")),
        share(("system", "Be kind"), ("human", "Hi"), ("gpt", "")),
        share(("human", "Hi")),
        share(),
    ]
    records, account = read_rows(Demonstration, tmp_path, rows, adapter="messages")
    before = [*user("Hi"), {"role": "assistant", "content": "Hello"}, *user("Why?")]
    assert records == [
        Demonstration(prompt=before, response="So"),
        Demonstration(
            prompt=[{"role": "system", "content": "Be kind"}, *user("Hi")], response="Hello"
        ),
    ]
    assert account.left_out == {
        "turns after the last answer": 1,
        "an assistant's turn before the first user's": 1,
    }
    assert account.dropped == {"an empty response": 1, "a conversation without an answer": 2}
    every, _ = read_rows(
        Demonstration, tmp_path, rows[:1], adapter="messages", options={"every_turn": True}
    )
    assert [record.response for record in every] == ["Hello", "So"]
    assert every[0].prompt == user("Hi")


def test_messages(tmp_path: Path) -> None:
    turns = [*user("Hi"), {"role": "assistant", "content": "Hello"}]
    records, _ = read_rows(Demonstration, tmp_path, [{"messages": turns}], adapter="messages")
    assert records == [Demonstration(prompt=user("Hi"), response="Hello")]
    prompts, _ = read_rows(Prompt, tmp_path, [{"messages": turns}], adapter="messages")
    assert prompts == [Prompt(prompt=user("Hi"))]
    tool = [*turns, {"role": "tool", "content": "{}"}]
    with pytest.raises(UserError, match=r"line 1, field messages\.2\.role"):
        read_rows(Demonstration, tmp_path, [{"messages": tool}], adapter="messages")


def test_plain_text(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_bytes(b"\xef\xbb\xbfone\r\ntwo\r\n\r\n\r\nthree\r\n")
    (tmp_path / "b.txt").write_text("four")
    expected = {
        "file": ["one\ntwo\n\n\nthree", "four"],
        "paragraph": ["one\ntwo", "three", "four"],
        "line": ["one", "two", "three", "four"],
    }
    for unit, documents in expected.items():
        records, account = read(Text, tmp_path, adapter="plain_text", options={"unit": unit})
        assert [record.text for record in records] == documents
        assert account.dropped == ({} if unit == "file" else {"a blank line": 2})
    prompts, _ = read(Prompt, tmp_path, adapter="plain_text", options={"unit": "line"})
    assert prompts[0] == Prompt(prompt=user("one"))
    with pytest.raises(UserError, match="unit is unknown"):
        read(Text, tmp_path, adapter="plain_text", options={"unit": "page"})
    (tmp_path / "b.txt").write_text("\n \n")
    _, account = read(Text, tmp_path, adapter="plain_text", options={"unit": "file"})
    assert account.dropped == {"a document without text": 2}


def test_generic_comparisons(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [
        {"prompt": "Q", "chosen": "a", "rejected": "b", "margin": 0.5, "weight": 2, "user": "u"},
        {"prompt": user("Q"), "completions": ["a", "b", "c"], "scores": [1, 3, 3]},
        {"prompt": "Q", "completions": ["a", "b"], "ranks": [0.0, 4.0], "source": ["m", "n"]},
        {
            "chosen": [*user("Q"), {"role": "assistant", "content": "a"}],
            "rejected": [*user("Q"), {"role": "assistant", "content": "b"}],
        },
    ]
    records, _ = read_rows(Comparison, tmp_path, rows)
    assert [record.prompt for record in records] == [user("Q")] * 4
    assert [record.completions for record in records] == [
        *(["a", "b"], ["a", "b", "c"], ["a", "b"], ["a", "b"])
    ]
    assert [record.ranks for record in records] == [[1, 2], [2, 1, 1], [1, 2], [1, 2]]
    assert [record.pairs for record in records] == [[(0, 1, 0.5)], None, None, None]
    assert [record.weight for record in records] == [2.0, 1.0, 1.0, 1.0]
    assert records[1].scores == [1.0, 3.0, 3.0]
    assert records[2].source == ["m", "n"]
    assert records[0].user == "u"


def test_a_column_that_is_not_mapped_is_said_with_the_way_to_map_it(tmp_path: Path) -> None:
    row = {"question": "Why?", "answers": ["So.", "No."], "order": [1, 2]}
    with pytest.raises(UserError, match="line 1, field prompt") as caught:
        read_rows(Prompt, tmp_path, [row])
    assert caught.value.got == "missing; fields here: question, answers, order"
    assert "columns={prompt: NAME}" in caught.value.do
    with pytest.raises(UserError, match=r"columns=\{completions: NAME, ranks: NAME\}"):
        read_rows(Comparison, tmp_path, [row])
    columns = {"prompt": "question", "completions": "answers", "ranks": "place"}
    with pytest.raises(UserError, match="field place"):  # mapped, but to nothing
        read_rows(Comparison, tmp_path, [row], columns=columns)


def test_generic_prompts_and_demonstrations(tmp_path: Path) -> None:
    turns = [*user("Q"), {"role": "assistant", "content": "A"}]
    rows: list[dict[str, Any]] = [
        {"messages": turns},
        {"prompt": "Q", "response": "A", "system": "Be kind", "input": " "},
    ]
    prompts, _ = read_rows(Prompt, tmp_path, rows)
    system = {"role": "system", "content": "Be kind"}
    assert prompts == [Prompt(prompt=user("Q")), Prompt(prompt=[system, *user("Q")])]
    demonstrations, _ = read_rows(Demonstration, tmp_path, rows)
    assert demonstrations == [
        Demonstration(prompt=user("Q"), response="A"),
        Demonstration(prompt=[system, *user("Q")], response="A"),
    ]


def test_texts_that_look_like_json_are_texts(tmp_path: Path) -> None:
    row = {"prompt": "[1, 2]", "chosen": '[{"x": 1}]', "rejected": "[broken"}
    records, _ = read_rows(Comparison, tmp_path, [row])
    assert records[0].prompt == user("[1, 2]")
    assert records[0].completions == ['[{"x": 1}]', "[broken"]


def test_nested_values_of_a_csv_are_json(tmp_path: Path) -> None:
    (tmp_path / "rows.csv").write_text('prompt,completions,ranks\nQ,"[""a"", ""b""]","[2, 1]"\n')
    records, _ = read(Comparison, tmp_path / "rows.csv")
    assert records[0].completions == ["a", "b"]
    assert records[0].ranks == [2, 1]
