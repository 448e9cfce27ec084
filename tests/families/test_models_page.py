"""The table of docs/models.md says what these tests cover, no more and no less."""

from pathlib import Path

from transformers import CONFIG_MAPPING, MODEL_FOR_CAUSAL_LM_MAPPING

from stages.lm.attention import attention_for
from tests.families.models import FAMILIES

PAGE = Path(__file__).parents[2] / "docs" / "models.md"


def row(name: str) -> str:
    family = FAMILIES[name]
    made_of = MODEL_FOR_CAUSAL_LM_MAPPING[CONFIG_MAPPING[family.model_type]]
    attention = "ours" if attention_for(made_of) else "its own"
    return f"| {name} | {made_of.__name__} | {attention} | {family.habits} |"


def test_the_table_of_families_is_this() -> None:
    """To write it again: print these rows."""
    lines = PAGE.read_text().splitlines()
    head = lines.index("| family | Transformers' class | attention on a CPU | tokenizer's habits |")
    table = lines[head + 2 : lines.index("", head)]
    assert table == [row(name) for name in FAMILIES]
