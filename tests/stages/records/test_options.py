"""conf/data: every format has an option in each table that it is for."""

from pathlib import Path
from typing import Any

import pytest
import yaml

from stages.records.adapters import ADAPTERS, adapter_class, make_adapter
from stages.records.schemas import Comparison, Demonstration, Prompt, Record, Text
from stages.records.sources import SourceConfig

CONF = Path(__file__).parents[3] / "conf" / "data"
TABLES: dict[str, type[Record]] = {
    "comparisons": Comparison,
    "demonstrations": Demonstration,
    "prompts": Prompt,
    "text": Text,
}
OPTIONS = sorted(p for p in CONF.rglob("*.yaml") if p.stem not in ("world", "labelers"))
FILES_ONLY = {"generic", "messages", "plain_text", "lm_human_preferences"}


def settings(option: Path) -> dict[str, Any]:
    found = yaml.safe_load(option.read_text())
    names = ("adapter", "hub", "subset", "data_dir", "split", "revision", "columns", "options")
    return {name: found[name] for name in names if name in found}


@pytest.mark.parametrize("option", OPTIONS, ids=lambda path: f"{path.parent.name}-{path.stem}")
def test_an_option_names_a_format_that_makes_its_table(option: Path) -> None:
    source = SourceConfig(**settings(option))
    make_adapter(source, TABLES[option.parent.name])
    assert source.hub or option.stem in FILES_ONLY


def test_every_format_is_offered() -> None:
    for name in ADAPTERS:
        for table in ("comparisons", "demonstrations"):
            made = adapter_class(name).makes(TABLES[table])
            assert (CONF / table / f"{name}.yaml").is_file() == made
        offered = [(CONF / table / f"{name}.yaml").is_file() for table in TABLES]
        assert any(offered)
