"""report.html: complete, self-contained, escaped, and drawn from whatever a run has."""

import re
from html.parser import HTMLParser
from pathlib import Path

import pytest

from pipeline.executors.protocol import Status
from pipeline.reporting.graph import direct_inputs, draw_graph
from pipeline.reporting.headline import headlines, seconds
from pipeline.reporting.outputs import write_outputs
from pipeline.reporting.page import write_report
from pipeline.reporting.samples import choose
from pipeline.summary import RunRecord, StageRecord, read_run
from tests.pipeline.example_run import HOSTILE, INPUTS, write_example_run


class Page(HTMLParser):
    """Checks that tags close in order; gathers headings, text, ids and addresses."""

    VOID = ("meta", "br", "link", "img", "input")

    def __init__(self, text: str):
        super().__init__()
        self.open: list[str] = []
        self.headings: list[str] = []
        self.texts: list[str] = []
        self.ids: list[str] = []
        self.addresses: list[str] = []
        self.tags: list[str] = []
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        self.tags.append(tag)
        named = dict(attributes)
        if "id" in named:
            self.ids.append(named["id"])
        self.addresses += [named[key] for key in ("href", "src") if key in named]
        if tag not in self.VOID:
            self.open.append(tag)

    def handle_startendtag(self, tag, attributes):
        self.handle_starttag(tag, attributes)
        if tag not in self.VOID:
            self.open.pop()

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] in ("h2", "h3"):
            self.headings.append(data.strip())
        self.texts.append(data)


@pytest.fixture(scope="module")
def whole_run(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("runs") / "ppo_ptx-0123abcd"
    write_example_run(folder)
    return folder


@pytest.fixture(scope="module")
def page(whole_run) -> Page:
    return Page((whole_run / "report.html").read_text())


def test_it_names_no_outside_address(whole_run, page):
    text = (whole_run / "report.html").read_text()
    assert "http:" not in text
    assert "https:" not in text
    assert not re.search(r"url\((?!#)", text)
    assert all(address.startswith("#") for address in page.addresses)


def test_it_is_sound_html_with_unique_ids(page):
    assert page.open == []
    assert len(page.ids) == len(set(page.ids))
    assert {address[1:] for address in page.addresses} <= set(page.ids)


def test_it_holds_every_part(page):
    for heading in (
        "What was reached",
        "Workflow",
        "Gold against proxy",
        "Proxy reward",
        "Gold reward",
        "KL to the reference",
        "Entropy",
        "Response length",
        "Finished responses",
        "Policy loss",
        "Value loss",
        "Pretraining loss",
        "Ranking loss",
        "Calibration",
        "Pretraining (base)",
        "Samples",
        "Settings that depart from the defaults",
        "Lineage",
    ):
        assert heading in page.headings


def test_it_shows_figures_states_and_settings(page):
    text = " ".join(page.texts)
    for words in ("71.0%", "68.0% to 74.0%", "0.810", "align.kl_coef", "kept (1 min 35 s)", "0.05"):
        assert words in text
    for asset in INPUTS:
        assert any(asset in words for words in page.texts)


def test_what_a_model_wrote_is_escaped(whole_run, page):
    """Red when the template is rendered with autoescape=False."""
    assert HOSTILE not in (whole_run / "report.html").read_text()
    assert "script" not in page.tags
    assert any(HOSTILE in words for words in page.texts)


def test_it_shows_ten_samples_side_by_side(page):
    assert page.tags.count("article") == 10
    assert page.headings.count("SFT") == page.headings.count("Policy") - 1 == 10


def test_every_axis_is_labelled(whole_run):
    text = (whole_run / "report.html").read_text()
    pictures = re.findall(r"<svg role=\"img\" aria-label.*?</svg>", text, flags=re.DOTALL)
    plots = [picture for picture in pictures if "axes_1" in picture]
    assert len(plots) >= 15
    unit = r"per (token|response|pair)|tokens|share|score|gold|norm|error|surrogate|predicted"
    for plot in plots:
        assert re.search(r"step|iteration|distance|predicted", plot)
        assert re.search(unit, plot)


def test_the_same_run_gives_the_same_page(whole_run):
    before = (whole_run / "report.html").read_text()
    write_report(whole_run)
    assert (whole_run / "report.html").read_text() == before


@pytest.mark.parametrize(
    "ready",
    [(), ("text",), ("text", "base"), tuple(INPUTS)[:9], tuple(INPUTS)[:10]],
    ids=["nothing", "text", "base", "to reward_model", "to policy"],
)
def test_it_is_drawn_from_what_is_there(tmp_path, ready):
    write_example_run(tmp_path / "run", ready=ready)
    page = Page((tmp_path / "run" / "report.html").read_text())
    assert "Workflow" in page.headings
    assert ("Pretraining (base)" in page.headings) == ("base" in ready)
    assert ("Gold against proxy" in page.headings) == ("policy" in ready)
    assert "Samples" not in page.headings


def test_a_stage_at_work_shows_its_curves(tmp_path):
    record = write_example_run(tmp_path / "run", ready=("text", "base"))
    record.stages["base"].status = Status.RUNNING
    record.stages["base"].folder = str(tmp_path / "not there yet")
    record.stages["sft"].status = Status.FAILED
    record.stages["sft"].error = "CUDA <out> of memory"
    write_outputs(tmp_path / "run", record)
    text = (tmp_path / "run" / "report.html").read_text()
    assert "Pretraining (base)" in text
    assert "CUDA &lt;out&gt; of memory" in text


def test_a_run_that_executes_nothing_draws_nothing_again(whole_run):
    report, metrics = whole_run / "report.html", whole_run / "metrics.parquet"
    before = [path.stat().st_mtime_ns for path in (report, metrics)]
    record = read_run(whole_run)
    for stage in record.stages.values():
        stage.status = Status.CACHED
    summary = write_outputs(whole_run, record)
    assert [path.stat().st_mtime_ns for path in (report, metrics)] == before
    assert summary["cached"] is True


def test_arrows_that_a_longer_way_implies_are_left_out():
    inputs = {asset: frozenset(names) for asset, names in INPUTS.items()}
    direct = direct_inputs(inputs)
    assert direct["evaluation"] == {"policy"}
    assert direct["policy"] == {"ppo_init", "reward_model"}
    assert direct["reward_model"] == {"comparisons"}
    assert direct["sft"] == {"base", "demonstrations"}


def test_no_two_boxes_overlap():
    stages = {a: StageRecord(inputs={n: n for n in names}) for a, names in INPUTS.items()}
    drawing = draw_graph(RunRecord(run="r", stages=stages), {})
    places = [(box.x, box.y) for box in drawing.boxes]
    assert len(set(places)) == len(INPUTS)
    assert all(0 <= x < drawing.width and 0 <= y < drawing.height for x, y in places)


def test_a_graph_without_stages_is_drawn():
    assert draw_graph(RunRecord(run="r"), {}).boxes == []


def test_figures_that_were_not_measured_are_left_out():
    assert headlines({}) == []
    (card,) = headlines({"evaluation.policy_win_rate_vs_sft": 0.6543})
    assert (card.value, card.detail) == ("65.4%", "by gold, ties half")


def test_the_labelers_card_says_how_they_differ():
    (card,) = headlines(
        {
            "comparisons.agreement_of_any_two": 0.731,
            "comparisons.agreement_within_group": 0.752,
            "comparisons.validation_tie_share": 0.12,
            "comparisons.labeler_noise": 0.3,
        }
    )
    assert card.value == "73.1%"
    assert card.detail == "within a group 75.2%, ties 12.0%, noise 0.300"


def test_samples_are_taken_from_each_kind_in_turn():
    samples = [{"kind": "a", "n": 0}, {"kind": "a", "n": 1}, {"kind": "b", "n": 2}, {"n": 3}]
    assert [sample["n"] for sample in choose(samples, 3)] == [0, 2, 3]
    assert [sample["n"] for sample in choose([{"n": n} for n in range(20)])] == list(range(10))


@pytest.mark.parametrize(
    ("value", "text"), [(0.04, "0.0 s"), (59.4, "59.4 s"), (59.9, "1 min 00 s"), (95, "1 min 35 s")]
)
def test_seconds_as_a_person_says_them(value, text):
    assert seconds(value) == text


def test_a_stop_rule_that_fired_is_among_the_headlines() -> None:
    (card,) = headlines({"policy.stopped_by.kl_above": 12.0})
    assert (card.label, card.value) == ("stopped by kl_above", "12 iterations")
