"""Gold against proxy along the distance from the reference: is the reward model exploited?

Gao, Schulman and Hilton (2022) plot both rewards along d = sqrt(KL): the proxy keeps rising, gold
has a peak. We mark the peak and say in words whether gold fell after it by more than its noise.
"""

import math
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

import numpy as np
from markupsafe import Markup
from matplotlib.axes import Axes

from pipeline.reporting.data import Curve
from pipeline.reporting.panels import running_mean
from pipeline.reporting.svg import GOLD_COLOR, INK, PROXY_COLOR, new_plot, styled, to_svg


@dataclass(frozen=True)
class _Source:
    kl: str
    proxy: str
    gold: str
    prompts: str
    unit: str = "iteration"


# The first that a policy has: held-out before training prompts, best-of-n along its n.
SOURCES = (
    _Source("validation/kl", "validation/proxy", "validation/gold", "held-out prompts"),
    _Source("rollout/kl", "rollout/score_mean", "rollout/gold_mean", "training prompts"),
    _Source("best_of_n/kl", "best_of_n/proxy", "best_of_n/gold", "held-out prompts", "n ="),
)
LEAST_POINTS = 4
STANDARD_ERRORS = 3.5  # a peak is the largest of many noisy means, so two would be too few


class Finding(StrEnum):
    """What the two curves say together."""

    OVER_OPTIMISED = "over-optimised"
    NOT_SEEN = "not over-optimised"
    UNDECIDED = "undecided"


@dataclass(frozen=True, kw_only=True)
class OverOptimisation:
    """The two rewards along the distance, smoothed, and what follows. Arrays are (N,), by step.

    distance: sqrt of the KL to the reference (nats per response). peak: index of the highest gold.
    fall: gold at the peak minus gold at the end. noise: the fall's standard error. proxy_rise: of
    the proxy since the peak.
    """

    steps: np.ndarray
    distance: np.ndarray
    proxy: np.ndarray
    gold: np.ndarray
    peak: int
    fall: float
    noise: float
    proxy_rise: float
    source: _Source

    @property
    def finding(self) -> Finding:
        """Gold fell by more than its noise while the proxy rose: over-optimised."""
        if self.fall > STANDARD_ERRORS * self.noise:
            return Finding.OVER_OPTIMISED if self.proxy_rise > 0 else Finding.UNDECIDED
        return Finding.NOT_SEEN

    @property
    def words(self) -> str:
        """The finding as a sentence or two."""
        unit = self.source.unit
        peak = f"{self.gold[self.peak]:.3f} at {unit} {self.steps[self.peak]}"
        end = f"{self.gold[-1]:.3f} at {unit} {self.steps[-1]}"
        proxy = f"{abs(self.proxy_rise):.2f}"
        if self.finding is Finding.OVER_OPTIMISED:
            return (
                f"Gold fell while the proxy rose: from its peak of {peak} gold came down to "
                f"{end}, and the proxy gained another {proxy}. Beyond the peak the policy exploits "
                "the reward model; stop there, raise kl_coef, or train the reward model on more "
                "comparisons."
            )
        if self.finding is Finding.UNDECIDED:
            return (
                f"Gold and proxy fell together: from its peak of {peak} gold came down to {end}, "
                f"and the proxy lost {proxy}. That is not exploitation of the reward model; look "
                "for a learning rate that is too high."
            )
        return (
            f"Gold did not fall by more than its noise: its highest mean is {peak}, it ended at "
            f"{end}. No over-optimisation is visible over this distance."
        )


def measure(curves: Mapping[str, Curve]) -> OverOptimisation | None:
    """Compare the rewards of a policy's curves; None where gold is not known or points are few."""
    for source in SOURCES:
        found = [curves.get(name, {}) for name in (source.kl, source.proxy, source.gold)]
        steps = sorted(set(found[0]).intersection(*found))
        if len(steps) >= LEAST_POINTS:
            kl, proxy, gold = (np.array([curve[step] for step in steps]) for curve in found)
            return compare(np.array(steps), kl, proxy, gold, source)
    return None


def compare(
    steps: np.ndarray, kl: np.ndarray, proxy: np.ndarray, gold: np.ndarray, source: _Source
) -> OverOptimisation:
    """Smooth the curves (N,) over their neighbours and look at what follows gold's peak."""
    window = len(steps) // 10
    smooth_proxy, smooth_gold = running_mean(proxy, window), running_mean(gold, window)
    peak = int(np.argmax(smooth_gold))
    return OverOptimisation(
        steps=steps,
        # The sampled estimate of a small KL may be below zero.
        distance=np.sqrt(np.maximum(running_mean(kl, window), 0.0)),
        proxy=smooth_proxy,
        gold=smooth_gold,
        peak=peak,
        fall=float(smooth_gold[peak] - smooth_gold[-1]),
        noise=fall_noise(gold, window),
        proxy_rise=float(smooth_proxy[-1] - smooth_proxy[peak]),
        source=source,
    )


def fall_noise(gold: np.ndarray, window: int) -> float:
    """Standard error of the difference of two smoothed points, the last one at the edge.

    From second differences x[i-1] - 2 x[i] + x[i+1], whose variance is 6 times that of independent
    noise and which a steady trend leaves at zero.
    """
    deviation = math.sqrt(float(np.mean(np.diff(gold, 2) ** 2)) / 6)
    inner, edge = 2 * window + 1, window + 1
    return deviation * math.sqrt(1 / inner + 1 / edge)


def draw(found: OverOptimisation) -> Markup:
    """Both rewards along the distance, one above the other, the gold peak marked in both."""
    with styled():
        figure, upper = new_plot(width=5.4, height=4.2)
        upper.remove()
        upper, lower = figure.subplots(2, sharex=True)
        _draw_reward(upper, found, found.proxy, PROXY_COLOR, "proxy\n(reward-model score)")
        _draw_reward(lower, found, found.gold, GOLD_COLOR, "gold\n(0 to 1)")
        _mark_peak(lower, found)
        lower.set_xlabel("distance from the reference: √KL, √nats per response")
        description = f"Proxy and gold along the square root of the KL. {found.words}"
        return to_svg(figure, "over-optimisation", description)


def _draw_reward(
    axes: Axes, found: OverOptimisation, values: np.ndarray, color: str, label: str
) -> None:
    axes.plot(found.distance, values, color=color, marker="o", markersize=3)
    axes.axvline(found.distance[found.peak], color=INK, linestyle=":", linewidth=1)
    axes.set_ylabel(label)


def _mark_peak(axes: Axes, found: OverOptimisation) -> None:
    at = (found.distance[found.peak], found.gold[found.peak])
    right_half = at[0] > (found.distance.min() + found.distance.max()) / 2
    axes.margins(y=0.25)  # room for the words above the star
    axes.plot(*at, marker="*", markersize=14, color=INK, linestyle="none")
    axes.annotate(
        f"gold peak {at[1]:.3f}",
        at,
        xytext=(-8 if right_half else 8, 7),
        textcoords="offset points",
        ha="right" if right_half else "left",
        color=INK,
    )
