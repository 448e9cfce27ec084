"""Panels of curves: what is in one, and how it is drawn. A panel without data is left out."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes
from matplotlib.ticker import MaxNLocator

from pipeline.reporting.data import Curve
from pipeline.reporting.svg import DASHES, SERIES_COLORS, new_plot, styled, to_svg

SMOOTHED_FROM = 40  # points; shorter curves are drawn as they are


@dataclass(frozen=True)
class Panel:
    """One plot: what is on its axes, the metrics in it with their legends, what to look for."""

    title: str
    y_label: str
    series: Mapping[str, str]
    caption: str = ""
    x_label: str = "step"
    y_limits: tuple[float, float | None] | None = None
    logarithmic: bool = False  # the steps


@dataclass(frozen=True)
class DrawnPanel:
    """A panel on the page."""

    title: str
    caption: str
    picture: Markup


def draw_panels(
    asset: str, panels: Sequence[Panel], curves: Mapping[str, Curve]
) -> list[DrawnPanel]:
    """The panels of one asset for which there are curves."""
    drawn = []
    for number, panel in enumerate(panels):
        found = {name: curves[name] for name in panel.series if curves.get(name)}
        if found:
            picture = _draw(f"{asset}-{number}", panel, found)
            drawn.append(DrawnPanel(panel.title, panel.caption, picture))
    return drawn


def _draw(name: str, panel: Panel, found: Mapping[str, Curve]) -> Markup:
    order = list(panel.series)
    with styled():
        figure, axes = new_plot()
        for metric, curve in found.items():
            draw_curve(axes, curve, panel.series[metric], order.index(metric))
        axes.set(xlabel=panel.x_label, ylabel=panel.y_label)
        axes.ticklabel_format(axis="y", useOffset=False)
        axes.xaxis.set_major_locator(MaxNLocator(nbins=7, integer=True, min_n_ticks=1))
        if panel.logarithmic:
            axes.set_xscale("log", base=2)
        if panel.y_limits:
            axes.set_ylim(*panel.y_limits)
        if len(found) > 1 or len(order) > 1:
            axes.legend()
        return to_svg(figure, name, f"{panel.title}: {panel.y_label} along the {panel.x_label}")


def draw_curve(axes: Axes, curve: Curve, label: str, number: int) -> None:
    """One series; a long one as its running mean, over the raw points in a lighter tone."""
    color = SERIES_COLORS[number % len(SERIES_COLORS)]
    dash = DASHES[number % len(DASHES)]
    steps, values = np.array(list(curve)), np.array(list(curve.values()))
    if len(curve) >= SMOOTHED_FROM:
        axes.plot(steps, values, color=color, alpha=0.25, linewidth=0.8)
        values = running_mean(values, window=len(curve) // 20)
    marker = "o" if len(curve) <= 15 else ""
    axes.plot(steps, values, dash, color=color, label=label, marker=marker, markersize=4)


def running_mean(values: np.ndarray, window: int) -> np.ndarray:
    """The mean of the values around each point; at the ends of those that are there.

    Args:
        values: (N,) a curve.
        window: points to each side.
    """
    sums: np.ndarray = np.concatenate([[0.0], np.cumsum(values)])
    places = np.arange(len(values))
    low, high = np.maximum(places - window, 0), np.minimum(places + window + 1, len(values))
    means: np.ndarray = (sums[high] - sums[low]) / (high - low)
    return means
