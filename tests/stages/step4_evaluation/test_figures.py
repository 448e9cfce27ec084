"""Win rates and means on answers made up by hand."""

import numpy as np
import pytest

from stages.step4_evaluation.answers import Answers
from stages.step4_evaluation.figures import Results, answer_figures, win_rate


def answers(gold: list[float] | None, proxy: list[float]) -> Answers:
    size = len(proxy)
    return Answers(
        tokens=[[5] * (n + 1) for n in range(size)],
        texts=["x"] * size,
        finished=[n % 2 == 0 for n in range(size)],
        proxy=np.array(proxy),
        gold=None if gold is None else np.array(gold),
    )


def test_win_rate_by_hand() -> None:
    """Won, lost, tied, won: (1 + 0 + 1/2 + 1)/4. Mutation: `theirs - ours` gives 3/8."""
    rate = win_rate(np.array([1.0, 0.0, 0.5, 0.9]), np.array([0.5, 0.1, 0.5, 0.8]), 0.95)
    assert rate.mean == 0.625
    spread = np.std([1, 0, 0.5, 1], ddof=1) / 2
    assert rate.low == pytest.approx(0.625 - 1.959964 * spread)
    assert rate.high == 1.0  # cut off: a share is never above one


def test_a_model_ties_with_itself() -> None:
    scores = np.linspace(0, 1, 7)
    rate = win_rate(scores, scores, 0.95)
    assert (rate.mean, rate.low, rate.high) == (0.5, 0.5, 0.5)


def test_the_interval_covers_as_often_as_it_says() -> None:
    """A thousand experiments with a true win rate of 0.6. Mutation: no division by sqrt(N)."""
    generator = np.random.default_rng(0)
    covered = 0
    for _ in range(1000):
        won = generator.random(200) < 0.6
        rate = win_rate(won.astype(float), 1.0 - won, 0.9)
        covered += rate.low <= 0.6 <= rate.high
    assert covered / 1000 == pytest.approx(0.9, abs=0.03)


def test_figures_of_one_model() -> None:
    """Mutation: `gold > 1 - 1e-3` counts 0.9995 as perfect."""
    figures = answer_figures(answers([1.0, 0.9995, 0.0, 1 - 1e-9], [1.0, 2.0, 3.0, 6.0]))
    assert figures["gold_mean"] == pytest.approx(0.749875)
    assert figures["perfect"] == 0.5
    assert figures["proxy_mean"] == 3.0
    assert figures["eos_rate"] == 0.5
    assert figures["response_tokens"] == 2.5


def results(gold: bool) -> Results:
    def known(values: list[float]) -> list[float] | None:
        return values if gold else None

    return Results(
        start="ppo_init",
        answers={
            "base": answers(known([0.0, 0.0]), [-1.0, -1.0]),
            "sft": answers(known([0.5, 0.5]), [0.0, 0.0]),
            "policy": answers(known([1.0, 0.2]), [2.0, 3.0]),
        },
        losses={"base": 2.0, "sft": 2.25, "ppo_init": 2.5, "policy": 3.0},
    )


def test_the_delta_is_against_the_policys_own_start() -> None:
    """Mutation: against SFT it is 0.75; start minus policy is negative."""
    assert results(gold=True).figures(0.95)["pretrain_loss_delta"] == 0.5


def test_gold_judges_where_it_is_known() -> None:
    figures = results(gold=True).figures(0.95)
    assert figures["policy_win_rate_vs_sft"] == 0.5
    assert figures["policy_proxy_win_rate_vs_sft"] == 1.0
    assert figures["sft_win_rate_vs_base"] == 1.0
    assert figures["policy_win_rate_vs_sft_ci95.low"] <= 0.5
    assert figures["policy_win_rate_vs_sft_ci95.high"] >= 0.5


def test_without_gold_the_proxy_is_named_as_such() -> None:
    """Mutation: a win rate by proxy under the name of the one by gold."""
    figures = results(gold=False).figures(0.95)
    assert figures["policy_proxy_win_rate_vs_sft"] == 1.0
    assert not any("gold" in name or "perfect" in name for name in figures)
    assert "policy_win_rate_vs_sft" not in figures
