"""How much better a token was than expected, and what the critic should have said.

An estimator takes (B, R) float32 tensors, right-padded, and the mask (B, R) of response tokens; it
gives advantages and returns of the same shape, 0 where masked. Nothing comes after the last token:
its next value is 0, whatever the padding holds.
"""

import torch
from torch import Tensor

from stages.step3_policy.ppo.masked import masked_mean, masked_variance


def gae(
    rewards: Tensor, values: Tensor, mask: Tensor, *, gamma: float, gae_lambda: float
) -> tuple[Tensor, Tensor]:
    """Generalized advantage estimation (Schulman et al. 2016, Eq. 16): advantages and returns.

    A_t = delta_t + gamma lambda A_(t+1), delta_t = r_t + gamma V_(t+1) - V_t; returns A_t + V_t.
    """
    rewards, values = rewards.masked_fill(~mask, 0.0), values.masked_fill(~mask, 0.0)
    advantages = torch.zeros_like(rewards)
    following, next_values = torch.zeros_like(rewards[:, 0]), torch.zeros_like(rewards[:, 0])
    for t in reversed(range(rewards.shape[1])):
        deltas = rewards[:, t] + gamma * next_values - values[:, t]
        following = deltas + gamma * gae_lambda * following
        advantages[:, t] = following
        next_values = values[:, t]
    return advantages, advantages + values


def whiten(values: Tensor, mask: Tensor, *, center: bool) -> Tensor:
    """(B, R): values over their standard deviation (biased), less their mean if `center`.

    Without `center` the mean is put back: only the spread changes (Ziegler et al. 2019).
    """
    mean = masked_mean(values, mask)
    whitened = (values - mean) * scale_of(values, mask)
    return (whitened if center else whitened + mean).masked_fill(~mask, 0.0)


def scale_of(values: Tensor, mask: Tensor) -> Tensor:
    """What whitening multiplies by: one over the biased standard deviation of the tokens."""
    return torch.rsqrt(masked_variance(values, mask) + 1e-8)
