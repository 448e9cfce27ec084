"""Panels of a reward model's examination (`reward/examination.py`): each figure with its error."""

from collections.abc import Mapping, Sequence
from typing import Any

from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.headline import percent
from pipeline.reporting.panels import DrawnPanel
from pipeline.reporting.svg import BLUE, FAINT, GREEN, ORANGE, new_plot, styled, to_svg

SHOWN = 12  # entries of one panel, those with most pairs
LONGEST_NAME = 28
Share = Mapping[str, Any]  # name, accuracy, error, pairs

BY = {
    "by_group": (
        "Accuracy by labeler group",
        "Groups differ in taste; one that training never saw tells whether what was learnt is "
        "shared.",
    ),
    "by_subset": ("Accuracy by subset", "The parts of a benchmark."),
    "by_k": ("Accuracy by completions ranked", "K completions to a prompt."),
    "by_ranks_apart": (
        "Accuracy by ranks apart",
        "Steps between the two in the labeler's ranking; what labelers put far apart should be "
        "easier to tell.",
    ),
    "by_margin": (
        "Accuracy by margin",
        "How much better the labeler called the better one, at least; it should rise.",
    ),
}
REFERENCES = (
    "In brackets the pairs; bars are two standard errors. Line: all pairs; dashed: gold's own."
)
SCORES = (
    "How the reward model scores what each model says to held-out prompts: box from quartile to "
    "quartile, whiskers from 5% to 95%. Zero is the labelers' demonstrations on average."
)


def draw_panels(
    examined: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> list[DrawnPanel]:
    """The panels there are figures for.

    examined: an examination.json, or empty. answers: score_distributions.json of the evaluation.
    """
    drawn = []
    if examined:
        drawn += [
            DrawnPanel(title, _caption(name, words, examined), _shares(name, title, examined))
            for name, (title, words) in BY.items()
            if len(examined[name]) > 1
        ]
        drawn.append(_length(examined))
    sources = _sources(examined, answers)
    if sources:
        drawn.append(DrawnPanel("Scores by source", SCORES, _boxes(sources)))
    return drawn


def _caption(name: str, words: str, examined: Mapping[str, Any]) -> str:
    seen, held_out = examined["seen"], examined["held_out"]
    both = ""
    if name == "by_group" and seen and held_out:
        accuracies = percent(seen["accuracy"]), percent(held_out["accuracy"])
        both = "Groups seen in training {}, held out {}. ".format(*accuracies)
    return f"{words} {both}{REFERENCES}"


def _shares(name: str, title: str, examined: Mapping[str, Any]) -> Markup:
    most = sorted(examined[name], key=lambda share: -share["pairs"])[:SHOWN]
    shares = [share for share in examined[name] if share in most]
    held_out = set(examined["held_out_groups"]) if name == "by_group" else set()
    with styled():
        figure, axes = new_plot(height=1.1 + 0.24 * len(shares))
        _dots(axes, shares, BLUE)
        _dots(axes, [share if share["name"] in held_out else None for share in shares], ORANGE)
        _references(axes, examined)
        _rows(axes, [_label(share["name"], share) for share in shares])
        if held_out:
            axes.plot([], [], "o", color=BLUE, label="seen in training")
            axes.plot([], [], "o", color=ORANGE, label="held out")
            axes.legend(loc="lower left", bbox_to_anchor=(0, 1), ncols=2)
        return to_svg(figure, f"examination-{name}", f"{title}, with standard errors")


def _dots(axes: Axes, shares: Sequence[Share | None], color: str) -> None:
    """One row a share, and two standard errors to each side."""
    for row, share in enumerate(shares):
        if share is not None:
            error = 2 * (share["error"] or 0)
            axes.errorbar(share["accuracy"], row, xerr=error, fmt="o", color=color)


def _rows(axes: Axes, labels: Sequence[str]) -> None:
    """Name the rows, the first at the top."""
    axes.set_yticks(range(len(labels)), labels)
    axes.set_ylim(len(labels) - 0.5, -0.5)
    axes.set(xlabel="share of pairs ordered as labeled")
    axes.xaxis.set_major_formatter(PercentFormatter(1.0, decimals=0))


def _references(axes: Axes, examined: Mapping[str, Any]) -> None:
    axes.axvline(examined["overall"]["accuracy"], color=FAINT, linewidth=1.2)
    if examined["label_ceiling"] is not None:
        axes.axvline(examined["label_ceiling"], color=FAINT, linewidth=1.2, linestyle="--")


def _label(name: str, share: Share) -> str:
    return f"{_plain(name)}  ({share['pairs']:,})"


def _plain(name: str) -> str:
    """A name that a user gave, as one short line without mathematics."""
    return name[:LONGEST_NAME].replace("$", r"\$")


def _length(examined: Mapping[str, Any]) -> DrawnPanel:
    """All pairs, those of equal length, and what length alone would reach."""
    length = examined["length"]
    named = {"all pairs": examined["overall"], "length-matched": length["matched"]}
    found = {name: share for name, share in named.items() if share}
    with styled():
        figure, axes = new_plot(height=1.9)
        _dots(axes, list(found.values()), BLUE)
        axes.plot(length["longer_wins"], len(found), "D", color=GREEN)
        labels = [_label(name, share) for name, share in found.items()]
        _rows(axes, [*labels, "always the longer"])
        picture = to_svg(figure, "examination-length", "Accuracy, also where lengths are equal")
    return DrawnPanel("Length bias", _length_words(length), picture)


def _length_words(length: Mapping[str, Any]) -> str:
    words = ["A fall on pairs of nearly equal length may mean that the model judges by length."]
    if length["correlation"] is not None:
        words.append(f"Score and length correlate by {length['correlation']:+.2f} within a prompt.")
    if length["prefers_longer"] is not None:
        ours, theirs = length["prefers_longer"], length["labelers_prefer_longer"]
        words.append(f"It prefers the longer in {percent(ours)}, labelers in {percent(theirs)}.")
    return " ".join(words)


def _sources(
    examined: Mapping[str, Any], answers: Sequence[Mapping[str, Any]]
) -> list[tuple[str, Mapping[str, Any]]]:
    """Labelled completions and demonstrations first, then the models' answers."""
    ranked = [
        (name if name == "demonstrations" else f"{_plain(name)}, ranked", source)
        for source in examined.get("scores", [])
        for name in [source["name"]]
    ]
    return ranked + [(source["name"], source) for source in answers]


def _boxes(sources: Sequence[tuple[str, Mapping[str, Any]]]) -> Markup:
    with styled():
        figure, axes = new_plot(height=1.2 + 0.3 * len(sources))
        axes.bxp(
            [_box(name, source) for name, source in sources],
            orientation="horizontal",
            showfliers=False,
            showmeans=True,
            patch_artist=True,
            boxprops={"facecolor": "none", "edgecolor": BLUE},
            medianprops={"color": BLUE},
            meanprops={"marker": "D", "markerfacecolor": ORANGE, "markeredgecolor": ORANGE},
        )
        axes.invert_yaxis()
        axes.axvline(0, color=FAINT, linewidth=1.2, linestyle="--")
        axes.set(xlabel="reward-model score (diamond: mean)")
        return to_svg(figure, "examination-scores", "Distributions of scores by source")


def _box(name: str, source: Mapping[str, Any]) -> dict[str, Any]:
    low, first, median, third, high = source["quantiles"]
    box = {"whislo": low, "q1": first, "med": median, "q3": third, "whishi": high}
    return {"label": name, "mean": source["mean"], **box}
