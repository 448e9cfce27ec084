"""The figures a reader looks for first, policy beside SFT; what was not measured is left out."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from stages.step3_policy.ppo.stopping import RULES

Figures = Mapping[str, Any]


@dataclass(frozen=True)
class Headline:
    """One card: a large value, what it is, and what to compare it with."""

    label: str
    value: str
    detail: str


@dataclass(frozen=True)
class _Card:
    name: str
    label: str
    shown: Callable[[float], str]
    detail: Callable[[Figures], str]
    unless: str = ""  # a figure that says the same better


def percent(share: float) -> str:
    """0.654 as 65.4%."""
    return f"{100 * share:.1f}%"


def decimals(value: float) -> str:
    """Three decimals."""
    return f"{value:.3f}"


def signed(value: float) -> str:
    """Three decimals and the sign."""
    return f"{value:+.3f}"


def seconds(value: float) -> str:
    """A duration as a person says it."""
    minutes, rest = divmod(round(value), 60)
    return f"{minutes} min {rest:02d} s" if minutes else f"{value:.1f} s"


def said(value: Any) -> str:
    """A figure in few characters; of a length its mean, median and maximum."""
    if isinstance(value, Mapping) and "median" in value:
        return f"{value['mean']:,.1f} / {value['median']:,.0f} / {value['max']:,.0f}"
    if isinstance(value, Mapping):
        return ", ".join(f"{name}: {number}" for name, number in value.items()) or "–"
    if value is None:
        return "–"
    return f"{value:.3f}" if isinstance(value, float) else f"{value:,}"


def _beside(name: str, shown: Callable[[float], str], words: str) -> Callable[[Figures], str]:
    return lambda figures: f"{words} {shown(figures[name])}" if name in figures else ""


def _interval(figures: Figures) -> str:
    bounds = [f"evaluation.policy_win_rate_vs_sft_ci95.{side}" for side in ("low", "high")]
    if not all(name in figures for name in bounds):
        return "by gold, ties half"
    low, high = (percent(figures[name]) for name in bounds)
    return f"by gold, ties half; 95% interval {low} to {high}"


def _labelers(figures: Figures) -> str:
    """Ties, noise, and what a common taste is worth."""
    shown = {
        "comparisons.agreement_within_group": "within a group",
        "comparisons.agreement_across_groups": "across groups",
        "comparisons.validation_tie_share": "ties",
    }
    parts = [
        f"{words} {percent(figures[name])}" for name, words in shown.items() if name in figures
    ]
    noise = figures.get("comparisons.labeler_noise")
    return ", ".join(parts + ([f"noise {decimals(noise)}"] if noise is not None else []))


def _always(words: str) -> Callable[[Figures], str]:
    return lambda _: words


CARDS = (
    _Card("evaluation.policy_win_rate_vs_sft", "win rate against SFT", percent, _interval),
    _Card(
        "evaluation.policy_proxy_win_rate_vs_sft",
        "win rate against SFT",
        percent,
        _always("by the reward model it was trained on, ties half: no gold is known"),
        unless="evaluation.policy_win_rate_vs_sft",
    ),
    _Card(
        "evaluation.policy_gold_mean",
        "mean gold reward",
        decimals,
        _beside("evaluation.sft_gold_mean", decimals, "SFT"),
    ),
    _Card(
        "evaluation.policy_perfect",
        "perfect responses",
        percent,
        _beside("evaluation.sft_perfect", percent, "SFT"),
    ),
    _Card(
        "evaluation.policy_proxy_mean",
        "mean proxy reward",
        decimals,
        _beside("evaluation.sft_proxy_mean", decimals, "SFT"),
    ),
    _Card("evaluation.policy_kl", "KL to the reference", decimals, _always("nats per response")),
    _Card(
        "evaluation.policy_response_tokens",
        "mean length, tokens",
        lambda value: f"{value:.1f}",
        _beside("evaluation.sft_response_tokens", lambda value: f"{value:.1f}", "SFT"),
    ),
    _Card(
        "evaluation.policy_eos_rate",
        "finished responses",
        percent,
        _beside("evaluation.sft_eos_rate", percent, "SFT"),
    ),
    _Card(
        "evaluation.pretrain_loss_delta",
        "pretraining loss against its start",
        signed,
        _always("nats per token; the alignment tax"),
    ),
    _Card(
        "reward_model.accuracy_gold",
        "reward model's accuracy by gold",
        percent,
        _always("pairs of SFT responses, unequal gold"),
    ),
    _Card(
        "reward_model.accuracy_labels",
        "reward model's accuracy by labels",
        percent,
        _beside("reward_model.label_ceiling", percent, "gold's own"),
    ),
    _Card("comparisons.agreement_of_any_two", "two labelers agree", percent, _labelers),
    _Card(
        "evaluation.sft_win_rate_vs_base",
        "SFT's win rate against base",
        percent,
        _always("by gold, ties half"),
    ),
    *(
        _Card(
            f"policy.stopped_by.{rule}",
            f"stopped by {rule}",
            lambda iterations: f"{iterations:.0f} iterations",
            _always("a rule of align.stop ended the training"),
        )
        for rule in RULES
    ),
)


def headlines(figures: Figures) -> list[Headline]:
    """The cards whose figure was measured."""
    return [
        Headline(card.label, card.shown(figures[card.name]), card.detail(figures))
        for card in CARDS
        if card.name in figures and card.unless not in figures
    ]
