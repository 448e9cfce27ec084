"""Every reader gives the same rows; every error names its place; no row is lost in silence."""

import bz2
import gzip
import json
import lzma
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison, Demonstration, Text
from tests.stages.records.sources import read, read_rows

ROWS = [
    {"prompt": "one\nline, and another", "response": 'a "quoted" answer'},
    {"prompt": "zwei", "response": "ä ö ü 🙂"},
]
EXPECTED = [
    Demonstration(prompt=[{"role": "user", "content": row["prompt"]}], response=row["response"])
    for row in ROWS
]
LINES = "".join(json.dumps(row) + "\n" for row in ROWS).encode()
CSV = 'prompt,response\n"one\nline, and another","a ""quoted"" answer"\nzwei,ä ö ü 🙂\n'.encode()


def _zstd(content: bytes) -> bytes:
    return pa.compress(content, codec="zstd", asbytes=True)


TEXT_FILES = {
    "rows.jsonl": LINES,
    "crlf.jsonl": LINES.replace(b"\n", b"\r\n\r\n"),
    "mark.jsonl": b"\xef\xbb\xbf" + LINES,
    "array.json": json.dumps(ROWS, indent=2).encode(),
    "lines.json": LINES,
    "rows.csv": CSV,
    "rows.tsv": CSV.replace(b'"\nzwei,', b'"\nzwei\t')
    .replace(b'another",', b'another"\t')
    .replace(b"prompt,", b"prompt\t"),
    "rows.jsonl.gz": gzip.compress(LINES),
    "rows.csv.bz2": bz2.compress(CSV),
    "rows.json.xz": lzma.compress(json.dumps(ROWS).encode()),
    "rows.jsonl.zst": _zstd(LINES),
}


@pytest.mark.parametrize("name", TEXT_FILES)
def test_text_files(name: str, tmp_path: Path) -> None:
    (tmp_path / name).write_bytes(TEXT_FILES[name])
    records, account = read(Demonstration, tmp_path / name)
    assert records == EXPECTED
    assert account.rows == 2


def test_parquet_and_arrow(tmp_path: Path) -> None:
    table = pa.Table.from_pylist(ROWS)
    pq.write_table(table, tmp_path / "rows.parquet")
    for name, make in (("stream.arrow", pa.ipc.new_stream), ("file.arrow", pa.ipc.new_file)):
        with make(str(tmp_path / name), table.schema) as writer:
            writer.write_table(table)
    for name in ("rows.parquet", "stream.arrow", "file.arrow"):
        assert read(Demonstration, tmp_path / name)[0] == EXPECTED


def test_saved_folder_of_datasets(tmp_path: Path) -> None:
    datasets = pytest.importorskip("datasets")
    data = datasets.Dataset.from_list(ROWS)
    data.save_to_disk(tmp_path / "plain")
    assert read(Demonstration, tmp_path / "plain")[0] == EXPECTED
    data.select([1, 0]).save_to_disk(tmp_path / "picked")  # an index stands before the rows
    assert read(Demonstration, tmp_path / "picked")[0] == EXPECTED[::-1]
    datasets.DatasetDict({"train": data, "test": data.select([1])}).save_to_disk(tmp_path / "both")
    assert read(Demonstration, tmp_path / "both", split="test")[0] == EXPECTED[1:]
    with pytest.raises(UserError, match="several splits"):
        read(Demonstration, tmp_path / "both")


def test_folders_and_globs(tmp_path: Path) -> None:
    (tmp_path / "train-00000.jsonl").write_bytes(LINES)
    (tmp_path / "test-00000.jsonl").write_bytes(LINES.splitlines(keepends=True)[1])
    (tmp_path / "README.md").write_text("a card")
    assert read(Demonstration, tmp_path, split="train")[0] == EXPECTED
    assert read(Demonstration, tmp_path, split="test")[0] == EXPECTED[1:]
    assert read(Demonstration, tmp_path)[0] == [EXPECTED[1], *EXPECTED]  # sorted by name
    assert read(Demonstration, tmp_path / "t*-0*.jsonl")[0] == [EXPECTED[1], *EXPECTED]
    with pytest.raises(UserError, match=r"no file of .* has the split 'validation'"):
        read(Demonstration, tmp_path, split="validation")
    with pytest.raises(UserError, match="names nothing"):
        read(Demonstration, tmp_path / "*.csv")
    with pytest.raises(UserError, match="names nothing"):
        read(Demonstration, tmp_path / "absent.jsonl")


def test_an_error_names_file_row_and_field(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"prompt": "three", "response": 3}, ROWS[0]]
    with pytest.raises(UserError, match=r"rows.jsonl, line 3, field response") as caught:
        read_rows(Demonstration, tmp_path, rows)
    assert caught.value.got == "int 3"


def test_bad_rows_are_counted_and_listed_where_the_user_wants_it(tmp_path: Path) -> None:
    rows: list[dict[str, Any]] = [*ROWS, {"prompt": "three"}, {"prompt": "four", "response": " "}]
    records, account = read_rows(Demonstration, tmp_path, rows, on_bad_row="skip")
    assert records == EXPECTED
    assert account.dropped == {"bad response": 2}
    assert [(drop.position, drop.field) for drop in account.examples] == [
        ("line 3", "response"),
        ("line 4", "response"),
    ]
    assert "missing" in account.examples[0].why


def test_columns_are_mapped_by_name_and_by_path(tmp_path: Path) -> None:
    rows = [{"task": {"question": "Why?"}, "context": "C", "answers": [{"text": "So."}], "by": "u"}]
    columns = {"prompt": "task.question", "input": "context", "response": "answers.0.text"}
    records, _ = read_rows(
        Demonstration, tmp_path, rows, columns=columns | {"user": "by"}, on_bad_row="error"
    )
    prompt = [{"role": "user", "content": "Why?\n\nC"}]
    assert records == [Demonstration(prompt=prompt, response="So.", user="u")]


def test_lines_above_the_limit_are_bad_rows(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b" * 200}, {"text": "c"}]
    records, account = read_rows(Text, tmp_path, rows, on_bad_row="skip", max_row_bytes=100)
    assert [record.text for record in records] == ["a", "c"]
    assert account.examples[0].position == "line 2"


def test_no_row_is_read_beyond_the_limit(tmp_path: Path) -> None:
    rows = [{"text": "a"}, {"text": "b"}, {"text": 3}]
    records, account = read_rows(Text, tmp_path, rows, max_rows=2)
    assert [record.text for record in records] == ["a", "b"]
    assert account.rows == 2
    with pytest.raises(UserError, match="line 3"):
        read_rows(Text, tmp_path, rows, max_rows=3)


def test_unknown_names(tmp_path: Path) -> None:
    for keys, said in (
        ({"adapter": "generik"}, "no such adapter"),
        ({"adapter": "nowhere.at_all:Format"}, "cannot be imported"),
        ({"adapter": "json:loads"}, "not a class"),
        ({"columns": {"reply": "a"}}, "columns.reply is no field"),
        ({"options": {"wish": 1}}, "no option wish"),
        ({"options": {"columns": {}}}, "no option columns"),
        (
            {"adapter": "helpsteer2", "options": {"attribute": 3}},
            "attribute of helpsteer2 is a str",
        ),
        ({"adapter": "alpaca", "columns": {"prompt": "a"}}, "columns of its own"),
    ):
        with pytest.raises(UserError, match=said):
            read_rows(Demonstration, tmp_path, ROWS, **keys)


@pytest.mark.parametrize(
    ("row", "field"),
    [
        ({"prompt": "q", "chosen": "a", "rejected": " "}, "rejected"),
        ({"prompt": "q", "completions": ["a", "", "b"], "ranks": [1, 2, 3]}, "completions.1"),
    ],
)
def test_an_empty_completion_of_a_plain_table_is_an_error(
    tmp_path: Path, row: dict[str, Any], field: str
) -> None:
    """Mutation: without the check it would be a response that somebody ranked."""
    with pytest.raises(UserError, match=rf"line 1, field {field}"):
        read_rows(Comparison, tmp_path, [row])
