"""KL estimators, the penalty in the reward, the sequence's k2 and the adaptive coefficient."""

import math

import pytest
import torch

from stages.step3_policy.ppo.kl import (
    adapted_kl_coef,
    k1,
    k2,
    k3,
    kl_penalty,
    sequence_k2_losses,
)

# Samples come from P; KL(P || Q) by hand: sum p log(p/q).
P = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
Q = torch.tensor([0.4, 0.4, 0.2], dtype=torch.float64)
LOG_RATIO = (P / Q).log()
KL = 0.02526715


@pytest.mark.parametrize(
    ("estimator", "mean", "spread"), [(k1, KL, 8.77), (k2, 0.02486241, 0.568), (k3, KL, 0.6315)]
)
def test_estimators_mean_and_spread(estimator, mean: float, spread: float) -> None:
    """Exact expectations under P. Mutation: `exp(log_ratio)` in k3 (the classic inversion)."""
    values = estimator(LOG_RATIO)
    expected = (P * values).sum()
    std = ((P * (values - expected) ** 2).sum()).sqrt()
    assert expected.item() == pytest.approx(mean, abs=1e-8)
    assert std.item() / KL == pytest.approx(spread, rel=2e-3)


def test_k3_is_never_negative() -> None:
    """Mutation: a flipped sign of the linear term."""
    log_ratio = torch.linspace(-3, 3, 61)
    assert (k3(log_ratio) >= 0).all()
    assert k3(torch.zeros(1)).item() == 0.0


@pytest.mark.parametrize(
    ("estimator", "bias", "spread"), [(k1, 0.0, 2.0), (k2, 0.25, 1.73), (k3, 0.0, 1.70)]
)
def test_estimators_on_gaussians(estimator, bias: float, spread: float) -> None:
    """N(0, 1) against N(1, 1), KL 0.5, by quadrature: Schulman's own table."""
    x = torch.linspace(-12, 12, 200_001, dtype=torch.float64)
    weights = torch.exp(-(x**2) / 2) / math.sqrt(2 * math.pi) * (x[1] - x[0])
    values = estimator(0.5 * (x - 1) ** 2 - 0.5 * x**2)
    mean = (weights * values).sum()
    std = (weights * (values - mean) ** 2).sum().sqrt()
    assert (mean.item() - 0.5) / 0.5 == pytest.approx(bias, abs=1e-3)
    assert std.item() / 0.5 == pytest.approx(spread, abs=1e-2)


def test_penalty_by_hand() -> None:
    """Eq. 2: -0.02 times the log-ratio. Mutation: the sign, or reference minus policy."""
    ref = torch.tensor([[-1.0, -2.0, -3.0]])
    logprobs = ref + torch.tensor([[0.5, -0.2, 0.1]])
    assert kl_penalty(logprobs, ref, 0.02)[0].tolist() == pytest.approx(
        [-0.01, 0.004, -0.002], abs=1e-7
    )


def test_sequence_k2_is_half_the_square_of_the_sum() -> None:
    """Log-ratios .5 and -.2 (and padding): .5 * .3^2. Mutation: the sum of the tokens' squares."""
    ref = torch.tensor([[-1.0, -2.0, 7.0]])
    logprobs = torch.tensor([[-0.5, -2.2, -9.0]])
    mask = torch.tensor([[True, True, False]])
    losses = sequence_k2_losses(logprobs, logprobs, ref, mask)
    assert losses.tolist() == pytest.approx([0.045], abs=1e-7)


def test_sequence_k2_has_the_gradient_of_the_kl_after_the_policy_moved() -> None:
    """Samples of an older policy, exactly enumerated. Mutation: no weight, or one with gradient."""
    old = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
    ref = torch.tensor([0.2, 0.2, 0.6], dtype=torch.float64)
    logits = torch.tensor([0.3, -0.4, 0.1], dtype=torch.float64, requires_grad=True)
    logprobs = logits.log_softmax(-1)
    mask = torch.ones(3, 1, dtype=torch.bool)
    losses = sequence_k2_losses(logprobs[:, None], old.log()[:, None], ref.log()[:, None], mask)
    (sampled,) = torch.autograd.grad((old * losses).sum(), logits, retain_graph=True)
    kl = (logprobs.exp() * (logprobs - ref.log())).sum()
    (exact,) = torch.autograd.grad(kl, logits)
    torch.testing.assert_close(sampled, exact)


@pytest.mark.parametrize(
    ("kl", "expected"),
    [(12.0, 0.151536), (6.3, 0.150384), (6.0, 0.15), (4.8, 0.148464), (1.0, 0.148464)],
)
def test_adaptive_coefficient_by_hand(kl: float, expected: float) -> None:
    """Target 6, horizon 10,000 episodes, 512 of them. Mutation: target / kl - 1, or no clip."""
    adapted = adapted_kl_coef(0.15, kl, target_kl=6.0, episodes=512, horizon=10_000)
    assert adapted == pytest.approx(expected, abs=1e-9)
