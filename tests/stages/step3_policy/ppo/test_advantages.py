"""GAE against hand-worked numbers, a plain sum and its limits; whitening."""

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from stages.step3_policy.ppo.advantages import gae, whiten
from tests.oracles import ppo as oracle

REWARDS = torch.tensor([[-0.01, 0.004, 0.998]])
VALUES = torch.tensor([[0.5, 0.4, 0.3]])
ALL = torch.ones(1, 3, dtype=torch.bool)


@pytest.mark.parametrize(
    ("gae_lambda", "expected"),
    [
        (0.95, [0.428745, 0.5671, 0.698]),
        (1.0, [0.492, 0.602, 0.698]),  # Monte Carlo: what is still to come, less the value
        (0.0, [-0.11, -0.096, 0.698]),  # the TD errors
    ],
)
def test_gae_by_hand(gae_lambda: float, expected: list[float]) -> None:
    """Mutations: `+ values[:, t]` in the TD error; lambda left out; next value not zero at last."""
    advantages, returns = gae(REWARDS, VALUES, ALL, gamma=1.0, gae_lambda=gae_lambda)
    assert advantages[0].tolist() == pytest.approx(expected, abs=1e-6)
    hand_returns = [a + v for a, v in zip(expected, [0.5, 0.4, 0.3], strict=True)]
    assert returns[0].tolist() == pytest.approx(hand_returns, abs=1e-6)


numbers = st.floats(-2, 2, allow_nan=False, width=32)
responses = st.lists(st.tuples(numbers, numbers), min_size=1, max_size=7)


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(responses, min_size=1, max_size=4), gamma=st.sampled_from([1.0, 0.9]))
def test_gae_equals_the_plain_sum(batch: list[list[tuple[float, float]]], gamma: float) -> None:
    """Ragged responses with rubbish as padding. Mutation: any sign or index in the recursion."""
    width = max(map(len, batch))
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in batch])
    padded = torch.tensor([row + [(1e6, -1e6)] * (width - len(row)) for row in batch])
    rewards, values = padded.double().unbind(-1)
    advantages, returns = gae(rewards, values, mask, gamma=gamma, gae_lambda=0.95)
    for index, row in enumerate(batch):
        plain = oracle.gae([r for r, _ in row], [v for _, v in row], gamma, 0.95)
        for found, expected in zip((advantages, returns), plain, strict=True):
            assert found[index, : len(row)].tolist() == pytest.approx(expected, abs=1e-9)
            assert found[index, len(row) :].abs().sum() == 0


def test_appended_padding_changes_nothing() -> None:
    """NaN as padding. Mutation: `rewards * mask` instead of filling."""
    padding = torch.full((1, 2), torch.nan)
    wide = [torch.cat([tensor, padding], 1) for tensor in (REWARDS, VALUES)]
    mask = torch.cat([ALL, torch.zeros(1, 2, dtype=torch.bool)], 1)
    plain, _ = gae(REWARDS, VALUES, ALL, gamma=1.0, gae_lambda=0.95)
    padded, _ = gae(*wide, mask, gamma=1.0, gae_lambda=0.95)
    assert torch.equal(padded, torch.cat([plain, torch.zeros(1, 2)], 1))
    torch.testing.assert_close(
        whiten(torch.cat([plain, padding], 1), mask, center=True)[:, :3],
        whiten(plain, ALL, center=True),
    )


def test_whitening_uses_the_biased_variance() -> None:
    """Mutation: an unbiased variance gives [-1.009100, .018456, .990644]."""
    advantages = torch.tensor([[0.428745, 0.5671, 0.698]])
    whitened = whiten(advantages, ALL, center=True)[0]
    assert whitened.tolist() == pytest.approx([-1.235890, 0.022604, 1.213286], abs=1e-4)


def test_whitening_without_shift_keeps_the_mean() -> None:
    """The table of 'The N Implementation Details of RLHF with PPO'. Mutation: the mean left out."""
    values = torch.tensor([[1.2, 1.3, 1.4], [1.5, 1.6, 1.7], [1.8, 1.9, 2.0]])
    expected = [0.0508, 0.4381, 0.8254, 1.2127, 1.6, 1.9873, 2.3746, 2.7619, 3.1492]
    whitened = whiten(values, torch.ones(3, 3, dtype=torch.bool), center=False)
    assert whitened.flatten().tolist() == pytest.approx(expected, abs=1e-4)
