"""What docs/metrics.md defines: the names of curves, and the forms of final figures."""

import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

PAGE = Path(__file__).parents[1] / "docs" / "metrics.md"
PLACEHOLDERS = {
    "SPLIT": "(train|validation|test)",
    "MODEL": "(base|sft|ppo_init|policy|ema)",
    "DATA": "(demonstrations|prompts|comparisons|text)",
    "REASON": "[a-z0-9_]+",
    "BOUND": "(low|high)",
    "k_K": "k_[0-9]+",
}
ROUNDS = ("completions", "comparisons", "policy")


def curves_part() -> str:
    """The page down to the final figures."""
    return PAGE.read_text().split("## Final figures")[0]


def documented_curves() -> set[str]:
    """The names in the first column of the curves' tables."""
    return set(re.findall(r"^\| `([^`]+)` \|", curves_part(), flags=re.MULTILINE))


def undocumented_figures(summary: dict[str, Any]) -> list[str]:
    """Figures of a summary.json that the page does not define."""
    forms = list(_figure_forms())
    names = [name for name in _flat(summary) if name != "run"]
    return [name for name in names if not any(re.fullmatch(form, name) for form in forms)]


def _figure_forms() -> Iterator[str]:
    for line in PAGE.read_text().split("## Final figures")[1].splitlines():
        for name in re.findall(r"`([^`]+)`", line.split("|")[1]) if line.startswith("| `") else ():
            form = re.escape(name)
            asset, dot, figure = form.partition(r"\.")
            if asset in ROUNDS:  # of online DPO, with the same figures
                form = f"{asset}(_[0-9]+)?{dot}{figure}"
            if asset == "sft":  # rejection sampling's policy is made by the same stage
                form = f"(sft|policy){dot}{figure}"
            if form.startswith("reward_model"):  # members of an ensemble have the same figures
                form = form.replace("reward_model", "(reward_model|reward_member_[0-9]+)", 1)
            for placeholder, choices in PLACEHOLDERS.items():
                form = form.replace(placeholder, choices)
            yield form


def _flat(tree: dict[str, Any], prefix: str = "") -> Iterator[str]:
    for key, value in tree.items():
        if isinstance(value, dict):
            yield from _flat(value, f"{prefix}{key}.")
        else:
            yield f"{prefix}{key}"
