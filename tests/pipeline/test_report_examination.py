"""The report's panels of a reward model's examination."""

import json
from pathlib import Path

from pipeline.reporting import examination
from pipeline.reporting.page import write_report
from reward.examination import examine
from tests.pipeline.example_run import write_example_run
from tests.reward.judged import comparison, three

ANSWERS = [
    {"name": name, "count": 9, "mean": 0.1, "std": 1.0, "quantiles": [-2.0, -1.0, 0.0, 1.0, 2.0]}
    for name in ("base", "sft", "policy")
]


def titles(panels: list[examination.DrawnPanel]) -> list[str]:
    return [panel.title for panel in panels]


def test_every_figure_has_its_panel() -> None:
    examined = examine(three(), held_out_groups=["y"], others={"demonstrations": [0.0]}).content()
    panels = examination.draw_panels(examined, ANSWERS)
    assert titles(panels) == [
        "Accuracy by labeler group",
        "Accuracy by subset",
        "Accuracy by completions ranked",
        "Accuracy by ranks apart",
        "Length bias",
        "Scores by source",
    ]
    assert "Groups seen in training 66.7%, held out 50.0%" in panels[0].caption
    assert "held out" in panels[0].picture
    for name in ("sft, ranked", "ppo, ranked", "demonstrations", "policy"):
        assert name in panels[-1].picture


def test_what_was_not_measured_is_left_out() -> None:
    """An older reward model has no examination, an unfinished run no answers."""
    assert examination.draw_panels({}, []) == []
    assert titles(examination.draw_panels({}, ANSWERS)) == ["Scores by source"]
    one = three()[1]
    assert titles(examination.draw_panels(examine([one]).content(), [])) == [
        "Length bias",
        "Scores by source",
    ]


def test_names_of_the_user_are_only_text() -> None:
    """Neither markup nor mathematics. Mutation: `$` unescaped raises in matplotlib."""
    rows = three()
    for row, group in zip(rows, (r"$\frac$", "<script>", "x" * 200), strict=True):
        row.comparison = comparison("a", row.comparison.ranks, labeler_group=group)
    picture = examination.draw_panels(examine(rows).content(), [])[0].picture
    assert r"$\frac$" in picture
    assert "<script>" not in picture
    assert "x" * 29 not in picture


def test_the_page_shows_them(tmp_path: Path) -> None:
    record = write_example_run(tmp_path / "runs" / "r")
    folder = Path(record.stages["reward_model"].folder)
    (folder / "examination.json").write_text(json.dumps(examine(three()).content()))
    evaluation = Path(record.stages["evaluation"].folder)
    (evaluation / "score_distributions.json").write_text(json.dumps(ANSWERS))
    page = write_report(tmp_path / "runs" / "r").read_text()
    for title in ("Accuracy by labeler group", "Length bias", "Scores by source"):
        assert f"<h3>{title}</h3>" in page
