"""docs/data.md: its example runs, and its table names every format and what it makes."""

import re
import sys
from pathlib import Path

import pytest

from stages.contracts import UserError
from stages.records.adapters import ADAPTERS, adapter_class
from stages.records.schemas import Comparison, Demonstration, Prompt, Text
from tests.stages.records.sources import read_rows

PAGE = (Path(__file__).parents[3] / "docs" / "data.md").read_text()


def test_the_example_is_a_format(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    [code] = re.findall(r"```python\n(.*?)```", PAGE, flags=re.DOTALL)
    (tmp_path / "reviews.py").write_text(code)
    monkeypatch.syspath_prepend(tmp_path)
    rows = [
        {"letter": "Dear", "drafts": {"a": "Yes", "b": "No"}, "votes_for_a": votes}
        for votes in (5, 0, 3)
    ]
    records, account = read_rows(
        Comparison, tmp_path, rows, adapter="reviews:Reviews", options={"min_majority": 4}
    )
    assert [record.completions for record in records] == [["Yes", "No"], ["No", "Yes"]]
    assert account.dropped == {"no clear majority": 1}
    with pytest.raises(UserError, match="line 1, field votes_for_a"):
        read_rows(Comparison, tmp_path, [rows[0] | {"votes_for_a": 6}], adapter="reviews:Reviews")
    one_draft = rows[0] | {"drafts": {"a": "Yes"}}
    with pytest.raises(UserError, match=r"line 1, field drafts\.b"):
        read_rows(Comparison, tmp_path, [one_draft], adapter="reviews:Reviews")
    del sys.modules["reviews"]


def test_the_table_is_whole() -> None:
    said = {
        cells[1].strip(" `"): cells[3].split()
        for cells in (line.split("|") for line in PAGE.splitlines())
        if len(cells) == 7 and cells[1].startswith(" `")
    }
    letters = {"C": Comparison, "D": Demonstration, "P": Prompt, "T": Text}
    made = {
        name: [letter for letter, kind in letters.items() if adapter_class(name).makes(kind)]
        for name in ADAPTERS
    }
    assert said == made
