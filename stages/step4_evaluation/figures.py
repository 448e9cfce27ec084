"""Answers to figures: means, shares, win rates with their intervals."""

from dataclasses import dataclass, field
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

    def named(self, name: str, confidence: float) -> dict[str, float]:
        """`name`, and `name_ci95` (for 95%) with its bounds."""
        interval = f"{name}_ci{round(100 * confidence)}"
        return {name: self.mean, f"{interval}.low": self.low, f"{interval}.high": self.high}


@dataclass(kw_only=True)
class Results:
    """What was measured of each model, by its name. start: the model the policy began as."""

    start: str
    pretrain_tokens: int = 0  # on which the losses were measured
    answers: dict[str, Answers] = field(default_factory=dict)
    losses: dict[str, float] = field(default_factory=dict)  # pretraining text, nats per token

    def figures(self, confidence: float) -> dict[str, float]:
        """Every model's own figures, the win rates, and the loss added by alignment."""
        answers = self.answers
        figures: dict[str, float] = {}
        for name, given in answers.items():
            own = answer_figures(given) | {"pretrain_loss": self.losses[name]}
            figures |= {f"{name}_{figure}": value for figure, value in own.items()}
        for ours, theirs in (("sft", "base"), ("policy", "sft"), ("ema", "sft")):
            if ours in answers:
                figures |= self._compare(ours, theirs, confidence)
        figures["pretrain_tokens"] = float(self.pretrain_tokens)
        figures["pretrain_loss_delta"] = self.losses["policy"] - self.losses[self.start]
        return figures

    def _compare(self, ours: str, theirs: str, confidence: float) -> dict[str, float]:
        """The win rate by gold; by the reward model as `..._proxy_win_rate_...`, always."""
        one, other = self.answers[ours], self.answers[theirs]
        proxy = win_rate(one.proxy, other.proxy, confidence)
        figures = proxy.named(f"{ours}_proxy_win_rate_vs_{theirs}", confidence)
        if one.gold is not None and other.gold is not None:
            gold = win_rate(one.gold, other.gold, confidence)
            figures |= gold.named(f"{ours}_win_rate_vs_{theirs}", confidence)
        return figures


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
