"""Importance weights of tokens that another policy sampled; the bound on how other it may be."""

from collections.abc import Callable
from dataclasses import replace

import pytest
import torch
from torch import Tensor

from stages.contracts import UserError
from stages.lm.engines.config import Correction, RolloutConfig
from stages.step3_policy.ppo.loop import PpoLoop, make_experience
from stages.step3_policy.ppo.mismatch import (
    check_difference,
    correction_figures,
    difference_figures,
    importance_weights,
)

# pi_old / mu = 2, 0.8, 9, 1
OLD = torch.tensor([[0.5, 0.2, 0.9, 0.1]]).log()
ENGINE = torch.tensor([[0.25, 0.25, 0.1, 0.1]]).log()
MASK = torch.tensor([[True, True, True, True]])


@pytest.mark.parametrize(
    ("config", "expected"),
    [
        (RolloutConfig(), [1.0, 1.0, 1.0, 1.0]),
        (
            RolloutConfig(correction=Correction.truncate, truncate_above=1.5),
            [1.5, 0.8, 1.5, 1.0],
        ),
        (RolloutConfig(correction=Correction.truncate), [2.0, 0.8, 2.0, 1.0]),
        (RolloutConfig(correction=Correction.mask), [2.0, 0.8, 0.0, 1.0]),
        (
            RolloutConfig(correction=Correction.mask, mask_below=0.9, mask_above=1.9),
            [0.0, 0.0, 0.0, 1.0],
        ),
    ],
)
def test_weights_by_hand(config: RolloutConfig, expected: list[float]) -> None:
    """Mutations: mu / pi_old; clamp from below; what is masked set to the bound."""
    torch.testing.assert_close(
        importance_weights(OLD, ENGINE, config), torch.tensor([expected]), rtol=1e-6, atol=0
    )


def test_weights_turn_a_mean_over_the_engine_into_one_over_the_policy() -> None:
    """sum mu w f = sum pi f, exactly, for any f: what the weights are for. Mutation: mu / pi."""
    pi, mu = torch.tensor([0.6, 0.3, 0.1]), torch.tensor([0.2, 0.5, 0.3])
    f = torch.tensor([1.0, -2.0, 5.0])
    config = RolloutConfig(correction=Correction.truncate, truncate_above=100.0)
    weights = importance_weights(pi.log()[None], mu.log()[None], config)[0]
    torch.testing.assert_close((mu * weights * f).sum(), (pi * f).sum())


def test_figures_by_hand() -> None:
    """Logs of 2, 0.8 and 9: (0.6931 + 0.2231 + 2.1972) / 3; the masked token does not count."""
    mask = torch.tensor([[True, True, True, False]])
    difference = difference_figures(OLD, ENGINE, mask)
    assert difference["rollout/logprob_diff_mean"] == pytest.approx(1.03784, abs=1e-4)
    assert difference["rollout/logprob_diff_max"] == pytest.approx(2.19722, abs=1e-4)
    weights = importance_weights(OLD, ENGINE, RolloutConfig(correction=Correction.mask))
    corrected = correction_figures(OLD, ENGINE, weights, mask)
    assert corrected["rollout/correction_mean"] == pytest.approx(2.8 / 3)
    assert corrected["rollout/corrected_fraction"] == pytest.approx(1 / 3)


def test_padding_says_nothing() -> None:
    """Whatever stands there: 0 against 0 has weight 1, and a masked difference is none."""
    mask = torch.tensor([[True, True, False, False]])
    old, engine = (
        torch.tensor([[-1.0, -2.0, 0.0, 7.0]]),
        torch.tensor([[-1.0, -2.0, 0.0, -9.0]]),
    )
    assert set(difference_figures(old, engine, mask).values()) == {0.0}


def test_a_difference_above_the_bound_is_an_error_that_says_what_to_try() -> None:
    """Mutation: `<` for `<=`, or a NaN let through."""
    config = RolloutConfig(max_logprob_diff=0.5)
    check_difference({"rollout/logprob_diff_mean": 0.5, "rollout/logprob_diff_max": 9.0}, config)
    for mean in (0.51, float("nan")):
        figures = {"rollout/logprob_diff_mean": mean, "rollout/logprob_diff_max": 9.0}
        with pytest.raises(UserError, match="not the policy's") as caught:
            check_difference(figures, config)
        assert "rollout.dtype=float32" in caught.value.do


def test_the_surrogate_is_weighted_token_by_token(make_loop: Callable[..., PpoLoop]) -> None:
    """Before the first update the ratio is 1: the loss is the mean of -w A over all tokens.

    Mutations: the weights left out of the loss; the mean taken over their sum.
    """
    loop = make_loop()
    prompts, rollouts = loop.sample(0)
    experience = make_experience(loop.roles, prompts, rollouts, loop.config, 0.02)
    weights = torch.linspace(0.0, 2.0, experience.mask.numel()).reshape(experience.mask.shape)
    weighted = replace(experience, importance_weights=weights)
    figures = loop.roles.policy.policy_gradient(weighted, 0.02)
    losses: Tensor = -weights * experience.advantages
    assert figures["loss/policy"] == pytest.approx(
        float(losses[experience.mask].sum() / experience.mask.sum()), abs=1e-6
    )


@pytest.mark.parametrize("correction", [Correction.truncate, Correction.mask])
def test_with_the_policys_own_module_a_correction_changes_rounding_alone(
    make_loop: Callable[..., PpoLoop], correction: Correction
) -> None:
    plain = make_loop("plain", iterations=2)
    plain.train()
    corrected = make_loop("corrected", iterations=2, rollout=RolloutConfig(correction=correction))
    corrected.train()
    for a, b in zip(
        plain.roles.policy.weights().values(),
        corrected.roles.policy.weights().values(),
        strict=True,
    ):
        torch.testing.assert_close(a, b, rtol=1e-3, atol=1e-5)


def test_log_probs_of_another_model_stop_the_run(
    make_loop: Callable[..., PpoLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """What a sync that went wrong looks like: the run ends before anything is learnt from it."""
    loop = make_loop()
    original = loop.roles.engine.generate

    def shifted(*args: object) -> object:
        rollouts = original(*args)
        rollouts.logprobs = [[x - 0.5 for x in row] for row in rollouts.logprobs]
        return rollouts

    monkeypatch.setattr(loop.roles.engine, "generate", shifted)
    before = {name: w.clone() for name, w in loop.roles.policy.weights().items()}
    with pytest.raises(UserError, match="not the policy's") as caught:
        loop.iterate(0, 0.02)
    assert "0.5000 nats" in caught.value.got
    for name, weight in loop.roles.policy.weights().items():
        assert torch.equal(weight, before[name])
