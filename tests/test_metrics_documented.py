"""docs/metrics.md defines exactly the metrics that the stages log."""

import ast
import re
from pathlib import Path

from tests.metrics_page import curves_part, documented_curves, undocumented_figures

ROOT = Path(__file__).parents[1]
SOURCES = [path for top in ("stages", "reward") for path in sorted((ROOT / top).rglob("*.py"))]
CURVE = re.compile(r"[a-z_0-9]+/[a-z_0-9]+")
# The few without a group; every supervised loop has them.
WITHOUT_GROUP = {"grad_norm", "lr", "kl_coef"}


def test_every_logged_metric_is_defined():
    """Red when a metric is renamed in the source alone."""
    exact, patterns = logged()
    missing = sorted(exact - documented_curves())
    assert not missing, f"define these in docs/metrics.md: {missing}"
    unmatched = [
        p for p in patterns if not any(re.fullmatch(p, name) for name in documented_curves())
    ]
    assert not unmatched, f"no metric in docs/metrics.md has the form {unmatched}"


def test_every_defined_metric_is_logged():
    """Red when a metric is dropped from the source alone."""
    exact, patterns = logged()
    known = exact | WITHOUT_GROUP
    stale = [
        name
        for name in sorted(documented_curves())
        if name not in known and not any(re.fullmatch(p, name) for p in patterns)
    ]
    assert not stale, f"docs/metrics.md defines what nothing logs: {stale}"
    text = "".join(path.read_text() for path in SOURCES)
    assert all(f'"{name}"' in text for name in WITHOUT_GROUP)


def test_the_report_draws_only_defined_metrics():
    from pipeline.reporting.over_optimisation import SOURCES as REWARDS
    from pipeline.reporting.sections import SECTIONS

    drawn = {
        name
        for _, assets in SECTIONS
        for panels in assets.values()
        for p in panels
        for name in p.series
    }
    drawn |= {name for source in REWARDS for name in (source.kl, source.proxy, source.gold)}
    assert drawn <= documented_curves()


def test_every_metric_has_formula_unit_and_range():
    for line in curves_part().splitlines():
        if line.startswith("| `"):
            cells = [cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]]
            assert len(cells) == 4, line
            assert all(cells), line


def test_the_forms_of_final_figures_tell_names_apart():
    known = {"wall_s": 1.0, "evaluation": {"policy_gold_mean": 0.8}, "sft": {"selected_epoch": 3}}
    assert undocumented_figures(known) == []
    unknown = {"evaluation": {"nobody_gold_mean": 0.8}, "sft": {"mood": 1.0}}
    assert undocumented_figures(unknown) == ["evaluation.nobody_gold_mean", "sft.mood"]


def logged() -> tuple[set[str], list[str]]:
    """Names that the source writes as `"group/name"`, and patterns of those that are f-strings."""
    exact: set[str] = set()
    patterns: list[str] = []
    for path in SOURCES:
        tree = ast.parse(path.read_text())
        read = {
            node.slice
            for node in ast.walk(tree)
            if isinstance(node, ast.Subscript) and isinstance(node.ctx, ast.Load)
        }
        for node in set(ast.walk(tree)) - read:
            if isinstance(node, ast.Constant) and isinstance(node.value, str):
                exact |= {node.value} if CURVE.fullmatch(node.value) else set()
            elif isinstance(node, ast.JoinedStr):
                patterns += pattern(node)
    return exact, patterns


def pattern(node: ast.JoinedStr) -> list[str]:
    """`f"time/{name}_s"` as `time/[\\w/]+_s`; nothing for other texts."""
    parts = [
        re.escape(str(part.value)) if isinstance(part, ast.Constant) else r"[\w/]+"
        for part in node.values
    ]
    text = "".join(parts)
    return [text] if re.match(r"[a-z_]+/", text) and " " not in text and "." not in text else []
