"""Is the reward model as sure as it is right? Predicted against observed shares of preferences."""

from collections.abc import Sequence

from markupsafe import Markup
from matplotlib.ticker import PercentFormatter

from pipeline.reporting.panels import DrawnPanel
from pipeline.reporting.svg import BLUE, FAINT, new_plot, styled, to_svg

Bin = dict[str, float]


def expected_error(bins: Sequence[Bin]) -> float:
    """Mean distance of predicted and observed share, weighted by the pairs in each bin."""
    pairs = sum(entry["count"] for entry in bins)
    gaps = (entry["count"] * abs(entry["predicted"] - entry["observed"]) for entry in bins)
    return sum(gaps) / pairs


def draw_panel(bins: Sequence[Bin]) -> list[DrawnPanel]:
    """One panel; none where there is no pair to judge by."""
    filled = [entry for entry in bins if entry["count"] > 0]
    if not filled:
        return []
    caption = (
        "Pairs by how surely the reward model prefers one response, along how often labelers do; "
        "the area of a point is its share of the pairs. Below the diagonal the model is too sure. "
        f"Expected calibration error: {100 * expected_error(filled):.1f}%."
    )
    return [DrawnPanel("Calibration", caption, _draw(filled))]


def _draw(bins: Sequence[Bin]) -> Markup:
    lowest = min(entry["low"] for entry in bins)
    most = max(entry["count"] for entry in bins)
    with styled():
        figure, axes = new_plot()
        axes.plot([lowest, 1], [lowest, 1], "--", color=FAINT, label="perfectly calibrated")
        axes.plot(
            [entry["predicted"] for entry in bins],
            [entry["observed"] for entry in bins],
            color=BLUE,
            label="reward model",
        )
        axes.scatter(
            [entry["predicted"] for entry in bins],
            [entry["observed"] for entry in bins],
            s=[12 + 90 * entry["count"] / most for entry in bins],
            color=BLUE,
        )
        axes.set(xlabel="predicted: σ(score difference)", ylabel="observed: share of labelers")
        axes.xaxis.set_major_formatter(PercentFormatter(1.0))
        axes.yaxis.set_major_formatter(PercentFormatter(1.0))
        axes.legend()
        return to_svg(figure, "calibration", "Predicted against observed share of preferences")
