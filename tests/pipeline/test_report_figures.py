"""What the report computes: gold's fall against its noise, running means, calibration error."""

import math

import numpy as np
import pytest

from pipeline.reporting import calibration
from pipeline.reporting.over_optimisation import Finding, fall_noise, measure
from pipeline.reporting.panels import running_mean

STEPS = range(1, 31)


def curves(gold, proxy, *, noise: float = 0.0, group: str = "validation"):
    jitter = np.random.default_rng(0).normal(size=len(STEPS))
    names = {
        "validation": ("validation/kl", "validation/proxy", "validation/gold"),
        "rollout": ("rollout/kl", "rollout/score_mean", "rollout/gold_mean"),
    }[group]
    values = (
        {s: s / 2.0 for s in STEPS},
        {s: proxy(s) for s in STEPS},
        {s: gold(s) + noise * jitter[s - 1] for s in STEPS},
    )
    return dict(zip(names, values, strict=True))


def peaked(step):
    return 0.8 - 0.001 * (step - 12) ** 2


def rising(step):
    return 0.5 + 0.01 * step


def test_gold_that_falls_while_the_proxy_rises_is_over_optimised():
    """Red when the proxy's rise or gold's fall changes its sign."""
    found = measure(curves(peaked, rising, noise=0.002))
    assert found.finding is Finding.OVER_OPTIMISED
    assert abs(found.steps[found.peak] - 12) <= 3
    assert found.distance[found.peak] == pytest.approx(
        math.sqrt(found.steps[found.peak] / 2), rel=1e-6
    )
    assert "Gold fell while the proxy rose" in found.words


def test_gold_that_rises_is_not_over_optimised():
    found = measure(curves(rising, rising, noise=0.002))
    assert found.finding is Finding.NOT_SEEN
    assert "No over-optimisation" in found.words


def test_a_fall_within_the_noise_is_none():
    flat = measure(curves(lambda _: 0.7, rising, noise=0.05))
    assert flat.finding is Finding.NOT_SEEN


def test_noise_seldom_looks_like_a_fall():
    """A flat gold with noise is called over-optimised in at most 1% of draws."""
    generator = np.random.default_rng(1)
    alarms = 0
    for _ in range(200):
        noise = generator.normal(size=len(STEPS))
        found = measure(curves(lambda s, n=noise: 0.7 + 0.02 * n[s - 1], rising))
        alarms += found.finding is Finding.OVER_OPTIMISED
    assert alarms <= 2


def test_gold_and_proxy_that_fall_together_are_another_matter():
    found = measure(curves(peaked, lambda s: -rising(s), noise=0.002))
    assert found.finding is Finding.UNDECIDED
    assert "fell together" in found.words


def test_training_prompts_serve_where_none_are_held_out():
    found = measure(curves(peaked, rising, group="rollout"))
    assert found.source.prompts == "training prompts"


def test_without_gold_nothing_is_said():
    known = curves(peaked, rising)
    del known["validation/gold"]
    assert measure(known) is None
    assert measure({}) is None


def test_three_points_are_too_few():
    known = {n: dict(list(c.items())[:3]) for n, c in curves(peaked, rising).items()}
    assert measure(known) is None


def test_best_of_n_is_read_along_n():
    points = {1: 0.0, 2: 0.19, 4: 0.64, 8: 1.2, 16: 1.84, 32: 2.5, 64: 3.2}
    known = {
        "best_of_n/kl": points,
        "best_of_n/proxy": {n: math.log(n) for n in points},
        "best_of_n/gold": {n: 0.6 + 0.05 * math.log(n) - 0.02 * math.log(n) ** 2 for n in points},
    }
    found = measure(known)
    assert found.finding is Finding.OVER_OPTIMISED
    assert found.steps[found.peak] == 4  # the vertex log n = 1.25 lies between 2 and 4
    assert "n = 64" in found.words


def test_a_small_kl_below_zero_is_distance_zero():
    known = curves(peaked, rising)
    known["validation/kl"] = dict.fromkeys(STEPS, -0.01)
    assert measure(known).distance.tolist() == [0.0] * len(STEPS)


def test_the_noise_of_a_trend_is_zero_and_of_noise_its_own():
    """Two points of deviation 1 differ by sqrt(2); window 1 averages 3 inside, 2 at the edge."""
    assert fall_noise(np.linspace(0, 5, 30), 0) == pytest.approx(0.0, abs=1e-12)
    white = np.random.default_rng(0).normal(size=100_000)
    assert fall_noise(white, 0) == pytest.approx(math.sqrt(2), rel=0.02)
    assert fall_noise(white, 1) == pytest.approx(math.sqrt(1 / 3 + 1 / 2), rel=0.02)


def test_running_mean_by_hand():
    values = np.array([1.0, 2.0, 6.0, 3.0])
    assert running_mean(values, 1).tolist() == pytest.approx([1.5, 3.0, 11 / 3, 4.5])
    assert running_mean(values, 0).tolist() == values.tolist()
    assert running_mean(values, 9).tolist() == pytest.approx([3.0] * 4)


def test_calibration_error_by_hand():
    bins = [
        {"low": 0.5, "high": 0.75, "predicted": 0.6, "observed": 0.5, "count": 30},
        {"low": 0.75, "high": 1.0, "predicted": 0.9, "observed": 0.95, "count": 10},
    ]
    assert calibration.expected_error(bins) == pytest.approx((30 * 0.1 + 10 * 0.05) / 40)


def test_calibration_without_pairs_draws_nothing():
    empty = {"low": 0.5, "high": 1.0, "predicted": 0.0, "observed": 0.0, "count": 0}
    assert calibration.draw_panel([]) == []
    assert calibration.draw_panel([empty]) == []
