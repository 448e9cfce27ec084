"""Malformed files: an error with file, row and field, or a counted and listed skip."""

from pathlib import Path

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from stages.contracts import UserError
from stages.records.schemas import Demonstration
from tests.stages.records.malformed import (
    BROKEN,
    FORMATS,
    GOOD_ROWS,
    LIMIT,
    Malformed,
    malformed_files,
)
from tests.stages.records.sources import read, read_rows

FILES = malformed_files()


def test_there_are_a_hundred() -> None:
    assert len({file.name for file in FILES}) == len(FILES) >= 100


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_error(file: Malformed, tmp_path: Path) -> None:
    path = file.write(tmp_path)
    kind = FORMATS[file.format][0]
    with pytest.raises(UserError) as caught:
        read(kind, path, adapter=file.format, max_row_bytes=LIMIT)  # type: ignore[type-var]
    said = str(caught.value)
    assert str(path) in said
    assert caught.value.do
    if file.position is not None:
        assert f"{file.position}, field {file.field}" in said


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.name)
def test_skip(file: Malformed, tmp_path: Path) -> None:
    path = file.write(tmp_path)
    kind = FORMATS[file.format][0]
    keys = {"adapter": file.format, "max_row_bytes": LIMIT, "on_bad_row": "skip"}
    if file.position is None:  # a fault of the whole file cannot be skipped
        with pytest.raises(UserError, match=file.name):
            read(kind, path, **keys)  # type: ignore[type-var]
        return
    _, account = read(kind, path, **keys)  # type: ignore[type-var]
    assert account.dropped.total() == 1
    [example] = account.examples
    assert (example.file, example.position) == (str(path), file.position)
    assert example.field.startswith(file.field)
    assert example.why


VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=5),
    lambda inner: (
        st.lists(inner, max_size=3)
        | st.dictionaries(st.sampled_from(["role", "content", "from", "value"]), inner, max_size=3)
    ),
    max_leaves=6,
)
NAMES = ["prompt", "response", "messages", "chosen", "rejected", "completions", "ranks", "scores"]


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck))
@given(
    rows=st.lists(st.dictionaries(st.sampled_from(NAMES), VALUES, max_size=4), min_size=1),
    form=st.sampled_from(sorted(FORMATS)),
)
def test_whatever_the_rows_hold_none_is_lost(rows: list[dict], form: str, tmp_path: Path) -> None:
    """`read` checks that rows in are rows used and rows counted."""
    kind = FORMATS[form][0]
    good = FORMATS[form][1]
    _, account = read_rows(  # type: ignore[type-var]
        kind, tmp_path, [good, *rows], adapter=form, on_bad_row="skip"
    )
    assert account.rows == 1 + len(rows)
    assert account.used >= 1


def test_a_broken_row_costs_no_other(tmp_path: Path) -> None:
    rows: list[dict] = [FORMATS["generic"][1] for _ in range(GOOD_ROWS)]
    rows[BROKEN] = {}
    records, _ = read_rows(Demonstration, tmp_path, rows, on_bad_row="skip")
    assert len(records) == GOOD_ROWS - 1
