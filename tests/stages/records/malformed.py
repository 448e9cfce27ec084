"""A hundred malformed files, from a few good rows of several formats and the ways they can break.

Each is a fault of one row, which `on_bad_row=skip` counts and lists, or of the whole file.
"""

import copy
import json
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq

from stages.records.schemas import Comparison, Demonstration, Record

LIMIT = 4096  # max_row_bytes of these tests
GOOD_ROWS = 4
BROKEN = 2  # the row that is broken, counted from 0

TURNS = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "yes"}]
OTHER = [{"role": "user", "content": "Q"}, {"role": "assistant", "content": "no"}]
FORMATS: dict[str, tuple[type[Record], dict[str, Any]]] = {
    "generic": (Demonstration, {"prompt": "Q", "response": "yes"}),
    "alpaca": (Demonstration, {"instruction": "Q", "input": "more", "output": "yes"}),
    "messages": (Demonstration, {"messages": TURNS}),
    "tulu3": (Comparison, {"prompt": "Q", "chosen": TURNS, "rejected": OTHER}),
    "hh_rlhf": (
        Comparison,
        {
            "chosen": "\n\nHuman: Q\n\nAssistant: yes",
            "rejected": "\n\nHuman: Q\n\nAssistant: no",
        },
    ),
    "webgpt_comparisons": (
        Comparison,
        {
            "question": {"full_text": "Q"},
            "answer_0": "yes",
            "answer_1": "no",
            "score_0": 0.5,
            "score_1": -0.5,
        },
    ),
    "ultrafeedback": (
        Comparison,
        {
            "instruction": "Q",
            "completions": [
                {"model": "a", "response": "yes", "overall_score": 8.0},
                {"model": "b", "response": "no", "overall_score": 2.0},
            ],
        },
    ),
}
# What is done to one value, and what it becomes.
WRONG: dict[str, Callable[[Any], Any]] = {
    "number": lambda _: 7,
    "null": lambda _: None,
    "list_of_nulls": lambda _: [None],
    "truth": lambda _: True,
}
PLACES: dict[str, list[tuple[str | int, ...]]] = {
    "generic": [("prompt",), ("response",)],
    "alpaca": [("instruction",), ("output",)],
    "messages": [("messages",), ("messages", 1, "content"), ("messages", 0, "role")],
    "tulu3": [("chosen",), ("rejected", 1, "content"), ("chosen", 1)],
    "hh_rlhf": [("chosen",), ("rejected",)],
    "webgpt_comparisons": [("question",), ("question", "full_text"), ("answer_1",)],
    "ultrafeedback": [("completions",), ("completions", 1), ("completions", 1, "response")],
}


@dataclass(frozen=True, kw_only=True)
class Malformed:
    """name: of the file. position, field: where its fault is, None and "" for a whole file."""

    name: str
    content: bytes | pa.Table
    format: str = "generic"
    position: str | None = None
    field: str = ""

    def write(self, folder: Path) -> Path:
        path = folder / self.name
        if isinstance(self.content, bytes):
            path.write_bytes(self.content)
        else:
            pq.write_table(self.content, path)
        return path


def malformed_files() -> list[Malformed]:
    return [
        *_wrong_values(),
        *_missing_columns(),
        *_broken_lines(),
        *_broken_arrays(),
        *_broken_csv(),
        *_broken_parquet(),
        *_broken_files(),
    ]


def _lines(rows: list[dict[str, Any]]) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def _rows(form: str) -> list[dict[str, Any]]:
    return [copy.deepcopy(FORMATS[form][1]) for _ in range(GOOD_ROWS)]


def _wrong_values() -> Iterator[Malformed]:
    """Wrong types and nested nulls, at every depth, in JSON Lines."""
    for form, places in PLACES.items():
        for place in places:
            for what, change in WRONG.items():
                rows = _rows(form)
                inner: Any = rows[BROKEN]
                for step in place[:-1]:
                    inner = inner[step]
                inner[place[-1]] = change(inner[place[-1]])
                yield Malformed(
                    name=f"{form}-{'.'.join(map(str, place))}-{what}.jsonl",
                    content=_lines(rows),
                    format=form,
                    position=f"line {BROKEN + 1}",
                    field=str(place[0]),
                )


def _missing_columns() -> Iterator[Malformed]:
    for form, places in PLACES.items():
        column = str(places[0][0])
        rows = _rows(form)
        del rows[BROKEN][column]
        if form == "messages":
            rows[BROKEN]["text"] = "no turns"
        yield Malformed(
            name=f"{form}-without-{column}.jsonl",
            content=_lines(rows),
            format=form,
            position=f"line {BROKEN + 1}",
            field=column,
        )


def _broken_lines() -> Iterator[Malformed]:
    whole = "(the whole row)"
    for name, line, field in (
        ("truncated", b'{"prompt": "Q", "respon', whole),
        ("twice", b'{"prompt": "Q", "response": "a", "response": "b"}', "response"),
        ("twice-inside", b'{"prompt": [{"role": "user", "role": "user"}]}', "role"),
        ("latin-1", '{"prompt": "Q", "response": "é"}'.encode("latin-1"), whole),
        ("cut-utf-8", b'{"prompt": "Q", "response": "\xf0\x9f"}', whole),
        ("surrogate", b'{"prompt": "Q", "response": "\\ud800"}', "response"),
        ("huge", json.dumps({"prompt": "Q", "response": "x" * 3 * LIMIT}).encode(), whole),
        ("list", b'["Q", "yes"]', whole),
        ("text", b'"yes"', whole),
        ("null", b"null", whole),
        ("single-quotes", b"{'prompt': 'Q', 'response': 'yes'}", whole),
        ("two-objects", b'{"prompt": "Q", "response": "a"}{"prompt": "Q"}', whole),
        ("deep", b"[" * 2000 + b"]" * 2000, whole),
        ("blank", b'{"prompt": "Q", "response": " "}', "response"),
        ("control", b'{"prompt": "Q\x01", "response": "yes"}', whole),
    ):
        lines = _lines(_rows("generic")).splitlines()
        lines[BROKEN] = line
        yield Malformed(
            name=f"line-{name}.jsonl",
            content=b"\n".join(lines) + b"\n",
            position=f"line {BROKEN + 1}",
            field=field,
        )


def _broken_arrays() -> Iterator[Malformed]:
    whole = json.dumps(_rows("generic")).encode()
    yield Malformed(name="array-cut.json", content=whole[:-20])
    yield Malformed(name="array-latin-1.json", content=whole.replace(b"yes", b"\xe9", 1))
    yield Malformed(name="array-goes-on.json", content=whole + b" 7")
    yield Malformed(name="array-no-comma.json", content=whole.replace(b"}, {", b"} {", 1))
    yield Malformed(name="array-of-nothing.json", content=b"[]")
    yield Malformed(name="number.json", content=b"7")
    long = json.dumps([*_rows("generic"), {"prompt": "x" * 70 * LIMIT}]).encode()
    yield Malformed(name="array-huge-row.json", content=long[:-2])
    rows: list[Any] = _rows("generic")
    rows[BROKEN] = [1, 2]
    field = "(the whole row)"
    content = json.dumps(rows).encode()
    yield Malformed(name="array-of-lists.json", content=content, position="row 2", field=field)
    twice = whole.replace(b'{"prompt"', b'{"prompt": "", "prompt"', 1)
    yield Malformed(name="array-twice.json", content=twice, position="row 0", field="prompt")


def _broken_csv() -> Iterator[Malformed]:
    header, good = b"prompt,response\n", b"Q,yes\n"
    two_lines = b'"Q\nQ",yes\n'
    for name, row, field in (
        ("short", b"Q\n", "(the whole row)"),
        ("long", b"Q,yes,no\n", "(the whole row)"),
        ("latin-1", b"Q,\xe9\n", "response"),
        ("empty-cell", b"Q,\n", "response"),
        ("huge", b"Q," + b"x" * (LIMIT // 2) + b'"\n"\n', ""),
    ):
        position = "line 4" if field else None
        content = header + two_lines + row + good
        yield Malformed(name=f"{name}.csv", content=content, position=position, field=field)
    yield Malformed(name="open-quote.csv", content=header + good + b'"Q,yes\n' + good)
    yield Malformed(name="huge-line.csv", content=header + b"Q," + b"x" * 2 * LIMIT + b"\n")
    yield Malformed(name="twice.csv", content=b"prompt,prompt\n" + good)
    yield Malformed(name="header-alone.csv", content=header)


def _broken_parquet() -> Iterator[Malformed]:
    def table(responses: pa.Array) -> pa.Table:
        return pa.table({"prompt": ["Q"] * len(responses), "response": responses})

    place: dict[str, Any] = {"position": "row 2", "field": "response"}
    nulls = table(pa.array(["a", "b", None, "d"]))
    yield Malformed(name="null.parquet", content=nulls, **place)
    latin = pa.array([b"a", b"b", b"\xe9", b"d"], type=pa.binary()).view(pa.string())
    yield Malformed(name="latin-1.parquet", content=table(latin), **place)
    yield Malformed(
        name="bytes.parquet", content=table(pa.array([b"a"])), **(place | {"position": "row 0"})
    )
    huge = table(pa.array(["a", "b", "x" * 3 * LIMIT, "d"]))
    whole = {"position": "row 2", "field": "(the whole row)"}
    yield Malformed(name="huge.parquet", content=huge, **whole)
    yield Malformed(name="empty.parquet", content=nulls.slice(0, 0))
    yield Malformed(name="not.parquet", content=b"PAR1 and nothing of it")


def _broken_files() -> Iterator[Malformed]:
    import gzip
    import lzma

    good = _lines(_rows("generic"))
    zstd = pa.compress(good, codec="zstd", asbytes=True)
    for name, content in (
        ("empty.jsonl", b""),
        ("empty.json", b""),
        ("empty.csv", b""),
        ("empty.txt", b""),
        ("blank.jsonl", b"\n\n  \n"),
        ("cut.jsonl.gz", gzip.compress(good)[:-12]),
        ("not.jsonl.gz", good),
        ("not.jsonl.bz2", good),
        ("cut.jsonl.xz", lzma.compress(good)[:-12]),
        ("cut.jsonl.zst", zstd[:-6]),
        ("not.jsonl.zst", good),
        ("not.arrow", good),
        ("rows.parquet.gz", gzip.compress(good)),
        ("rows.xlsx", good),
        ("rows", good),
    ):
        yield Malformed(name=name, content=content)
