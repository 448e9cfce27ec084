"""What no record may say; each error names its field."""

import math
from pathlib import Path
from typing import Any

import pytest

from stages.contracts import UserError
from stages.records.schemas import Comparison, RecordError
from stages.records.tables import parse_row
from tests.stages.records.sources import read_rows

NAN = math.nan
GOOD: dict[str, Any] = {
    "prompt": [{"role": "user", "content": "Q"}],
    "completions": ["a", "b", "c"],
    "source": ["m", "m", "m"],
    "finished": [True, True, True],
    "ranks": [1, 2, 2],
}


@pytest.mark.parametrize(
    ("field", "changes"),
    [
        ("ranks", {"ranks": [1, 2]}),
        ("source", {"source": ["m"]}),
        ("finished", {"finished": []}),
        ("ranks[0]", {"ranks": [0, 1, 2]}),
        ("ranks", {"completions": ["a", "b", "a"]}),
        (
            "completions",
            {"completions": ["a"], "source": ["m"], "finished": [True], "ranks": [1]},
        ),
        ("completions[1]", {"completions": ["a", "", "c"], "finished": [True, False, True]}),
        ("completions[2]", {"completions": ["a", "b", None]}),
        ("scores", {"scores": [1.0, 2.0]}),
        ("scores", {"scores": [1.0, 2.0, NAN]}),
        ("weight", {"weight": NAN}),
        ("weight", {"weight": -1.0}),
        ("pairs", {"pairs": [(0, 1, NAN)]}),
        ("pairs", {"pairs": [(0, 1, math.inf)]}),
        ("pairs", {"pairs": [(0, 3, 0.0)]}),
        ("pairs", {"pairs": [(1, 1, 0.0)]}),
        ("pairs", {"pairs": [(0, 1, 0.0), (1, 2, 0.0), (1, 0, 0.0)]}),
        ("prompt", {"prompt": []}),
        ("prompt", {"prompt": [{"role": "assistant", "content": "Q"}]}),
        ("prompt[0].role", {"prompt": [{"role": "human", "content": "Q"}]}),
    ],
)
def test_a_comparison_that_contradicts_itself(field: str, changes: dict[str, Any]) -> None:
    with pytest.raises(RecordError) as caught:
        Comparison(**(GOOD | changes))
    assert caught.value.field == field
    with pytest.raises(UserError, match=r"x\.parquet, row 3, field "):
        parse_row(_as_stored(GOOD | changes), Comparison, Path("x.parquet"), 3)


def _as_stored(row: dict[str, Any]) -> dict[str, Any]:
    names = ("better", "worse", "margin")
    pairs = row.get("pairs")
    return row | {"pairs": pairs and [dict(zip(names, pair, strict=True)) for pair in pairs]}


@pytest.mark.parametrize(
    ("tied", "changes"),
    [
        (False, {}),
        (True, {"ranks": [4, 4, 4]}),
        (True, {"pairs": []}),
        (False, {"ranks": [1, 1, 1], "pairs": [(0, 1, 0.0)]}),
        (False, {"completions": ["a", "", "c"]}),  # a response may end at once
        (True, {"completions": ["a", "a", "a"], "ranks": [1, 1, 1]}),
        (False, {"pairs": [(0, 1, 0.0), (1, 2, 0.0), (2, 0, 0.0)]}),  # people may disagree
        (False, {"weight": 0.0}),
    ],
)
def test_what_a_comparison_may_say(tied: bool, changes: dict[str, Any]) -> None:
    assert Comparison(**(GOOD | changes)).all_tied is tied


def test_comparisons_of_ties_alone_are_kept_and_counted(tmp_path: Path) -> None:
    row = {"prompt": "Q", "completions": ["a", "b"]}
    rows = [row | {"ranks": ranks} for ranks in ([1, 1], [2, 1], [3, 3])]
    records, account = read_rows(Comparison, tmp_path, rows)
    assert (len(records), account.all_tied) == (3, 2)
