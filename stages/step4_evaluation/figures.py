"""Answers to figures: means, shares, win rates with their intervals. No torch here."""

from dataclasses import dataclass
from statistics import NormalDist

import numpy as np

from stages.step4_evaluation.answers import Answers

PERFECT = 1 - 1e-6


@dataclass(frozen=True)
class WinRate:
    """The share of prompts won, ties counting half, and its confidence interval over prompts."""

    mean: float
    low: float
    high: float


def win_rate(ours: np.ndarray, theirs: np.ndarray, confidence: float) -> WinRate:
    """How often `ours` (N,) beats `theirs` (N,), prompt by prompt; normal interval of the mean.

    Scores are compared without a position, so there is no position to favour.
    """
    outcomes = 0.5 + 0.5 * np.sign(ours - theirs)
    mean = float(outcomes.mean())
    error = float(outcomes.std(ddof=1)) / len(outcomes) ** 0.5 if len(outcomes) > 1 else 0.5
    width = NormalDist().inv_cdf(0.5 + confidence / 2) * error
    return WinRate(mean, max(0.0, mean - width), min(1.0, mean + width))


def answer_figures(answers: Answers) -> dict[str, float]:
    """Of one model: gold, share of perfect completions, proxy, EOS rate, length in tokens."""
    figures = {
        "proxy_mean": float(answers.proxy.mean()),
        "eos_rate": float(np.mean(answers.finished)),
        "response_tokens": float(np.mean([len(tokens) for tokens in answers.tokens])),
    }
    if answers.gold is not None:
        figures["gold_mean"] = float(answers.gold.mean())
        figures["perfect"] = float((answers.gold >= PERFECT).mean())
    return figures


def comparison_figures(
    name: str, ours: Answers, theirs: Answers, confidence: float
) -> dict[str, float]:
    """Win rates under `name`, by gold; by the reward model under `proxy_` and `name`."""
    figures = _win_rate_figures(f"proxy_{name}", ours.proxy, theirs.proxy, confidence)
    if ours.gold is not None and theirs.gold is not None:
        figures |= _win_rate_figures(name, ours.gold, theirs.gold, confidence)
    return figures


def _win_rate_figures(
    name: str, ours: np.ndarray, theirs: np.ndarray, confidence: float
) -> dict[str, float]:
    rate = win_rate(ours, theirs, confidence)
    percent = round(100 * confidence)
    return {
        name: rate.mean,
        f"{name}_ci{percent}.low": rate.low,
        f"{name}_ci{percent}.high": rate.high,
    }
