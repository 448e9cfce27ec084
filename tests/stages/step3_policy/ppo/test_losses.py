"""PPO's losses against their clip tables, gradients included."""

import math

import pytest
import torch

from stages.step3_policy.ppo.losses import policy_losses, value_losses
from stages.step3_policy.ppo.masked import masked_mean
from tests.oracles import ppo as oracle


@pytest.mark.parametrize(
    ("ratio", "advantage", "loss", "slope"),
    [
        (0.5, 1.0, -0.5, -1.0),
        (0.5, -1.0, 0.8, 0.0),
        (1.5, 1.0, -1.2, 0.0),
        (1.5, -1.0, 1.5, 1.0),
    ],
)
def test_policy_clip_table(ratio: float, advantage: float, loss: float, slope: float) -> None:
    """Loss and its slope in the ratio. Mutations: minimum for maximum; the advantage's sign."""
    logprob = torch.tensor([[math.log(ratio)]], dtype=torch.float64, requires_grad=True)
    zero = torch.zeros(1, 1, dtype=torch.float64)
    losses, ratios, clipped = policy_losses(logprob, zero, zero + advantage, 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert logprob.grad.item() / ratio == pytest.approx(slope)  # d ratio / d logprob = ratio
    assert ratios.item() == pytest.approx(ratio)
    assert clipped.item() is (slope == 0.0)


def test_policy_loss_equals_the_drawn_cases() -> None:
    """A grid against the case-by-case reference. Mutation: only one side clipped."""
    for ratio in (0.3, 0.79, 0.81, 1.0, 1.19, 1.21, 2.0):
        for advantage in (-2.0, -0.5, 0.5, 2.0):
            losses, _, _ = policy_losses(
                torch.tensor([[math.log(ratio)]]),
                torch.zeros(1, 1),
                torch.tensor([[advantage]]),
                0.2,
            )
            expected = oracle.clipped_policy_loss(ratio, advantage, 0.2)
            assert losses.item() == pytest.approx(expected, rel=1e-5)


@pytest.mark.parametrize(
    ("value", "loss", "slope"),
    [(0.5, 1.125, -1.5), (1.0, 0.5, -1.0), (1.1, 0.405, -0.9), (1.5, 0.32, 0.0), (2.0, 0.32, 0.0)],
)
def test_value_clip_table(value: float, loss: float, slope: float) -> None:
    """V_old 1, R 2, eps .2. Mutations: minimum for maximum; the clip around R."""
    values = torch.tensor([[value]], dtype=torch.float64, requires_grad=True)
    old, returns = torch.ones_like(values).detach(), torch.full_like(values, 2.0).detach()
    losses = value_losses(values, old, returns, 0.2)
    losses.sum().backward()
    assert losses.item() == pytest.approx(loss)
    assert values.grad.item() == pytest.approx(slope)


def test_value_loss_without_clip_is_half_the_squared_error() -> None:
    """Mutation: the half left out."""
    losses = value_losses(torch.tensor([[2.5]]), torch.tensor([[1.0]]), torch.tensor([[2.0]]), None)
    assert losses.item() == pytest.approx(0.125)


def test_mean_counts_every_token_once() -> None:
    """Responses of 1 and 3 tokens: (4 + 1 + 1 + 2) / 4. Mutation: the mean of sequences' means."""
    values = torch.tensor([[4.0, 9.0, 9.0], [1.0, 1.0, 2.0]])
    mask = torch.tensor([[True, False, False], [True, True, True]])
    assert masked_mean(values, mask).item() == pytest.approx(2.0)
