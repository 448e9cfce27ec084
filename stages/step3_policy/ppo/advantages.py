"""How much better a token was than expected, and what the critic should have said.

An estimator takes rewards (B, R) float32, right-padded, and the mask (B, R) of response tokens; it
gives advantages of the same shape, 0 where masked. Nothing comes after the last token: its next
value is 0, whatever the padding holds. Estimators that compare the samples of a prompt expect them
in rows that stand together.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from stages.step3_policy.ppo.config import Advantage, PpoConfig
from stages.step3_policy.ppo.masked import masked_mean, masked_variance, sequence_sums


@dataclass(frozen=True, kw_only=True)
class Targets:
    """What the losses of an iteration use."""

    advantages: Tensor  # (B, R) whitened if so configured
    returns: Tensor | None  # (B, R) what the critic is fitted to; None without one
    scale: float | Tensor  # what whitening multiplied by; 1 without


def estimate(rewards: Tensor, values: Tensor | None, mask: Tensor, config: PpoConfig) -> Targets:
    """The configured estimator, then whitening. values (B, R): the critic's, for `gae` alone."""
    advantages, returns = _estimated(rewards, values, mask, config)
    if not config.whiten_advantages:
        return Targets(advantages=advantages, returns=returns, scale=1.0)
    return Targets(
        advantages=whiten(advantages, mask, center=True),
        returns=returns,
        scale=scale_of(advantages, mask),
    )


def _estimated(
    rewards: Tensor, values: Tensor | None, mask: Tensor, config: PpoConfig
) -> tuple[Tensor, Tensor | None]:
    """Advantages, and returns where there is a critic to fit."""
    samples = config.samples_per_prompt
    match config.advantage:
        case Advantage.gae:
            assert values is not None
            return gae(rewards, values, mask, gamma=config.gamma, gae_lambda=config.gae_lambda)
        case Advantage.rloo:
            return rloo(rewards, mask, samples_per_prompt=samples), None
        case Advantage.grpo:
            group_std = config.group_std
            return grpo(rewards, mask, samples_per_prompt=samples, group_std=group_std), None
        case Advantage.reinforce_pp:
            return reward_to_go(rewards, mask, gamma=config.gamma), None


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


def rloo(rewards: Tensor, mask: Tensor, *, samples_per_prompt: int) -> Tensor:
    """REINFORCE leave-one-out (Kool et al. 2019; Ahmadian et al. 2024, section 2.2).

    The response is one action, R_i its whole reward, KL included: every token of response i gets
    R_i - 1/(K-1) sum_(j != i) R_j over the K samples of its prompt.
    """
    totals = sequence_sums(rewards, mask).reshape(-1, samples_per_prompt)
    others = (totals.sum(1, keepdim=True) - totals) / (samples_per_prompt - 1)
    return on_every_token(totals - others, mask)


def grpo(rewards: Tensor, mask: Tensor, *, samples_per_prompt: int, group_std: bool) -> Tensor:
    """Group-relative advantages (Shao et al. 2024, section 4.1.2, outcome supervision).

    Every token of response i gets (R_i - mean) / std over the samples of its prompt. Without
    `group_std` the division is left out (Dr. GRPO, Liu et al. 2025): it gives prompts weight whose
    samples hardly differ. The standard deviation is the biased one.
    """
    totals = sequence_sums(rewards, mask).reshape(-1, samples_per_prompt)
    advantages = totals - totals.mean(1, keepdim=True)
    if group_std:
        advantages = advantages * torch.rsqrt(totals.var(1, correction=0, keepdim=True) + 1e-8)
    return on_every_token(advantages, mask)


def reward_to_go(rewards: Tensor, mask: Tensor, *, gamma: float) -> Tensor:
    """REINFORCE++ (Hu et al. 2025, section 3): A_t = r(x, y) - beta sum_(s >= t) KL_s at gamma 1.

    Its baseline and its scale are those of the whole batch: `whiten_advantages`, without which the
    config refuses it.
    """
    return gae(rewards, torch.zeros_like(rewards), mask, gamma=gamma, gae_lambda=1.0)[0]


def on_every_token(advantages: Tensor, mask: Tensor) -> Tensor:
    """(B, R): the advantage of each response, (P, K) by prompt, at each of its tokens."""
    return advantages.reshape(-1, 1).expand(mask.shape).masked_fill(~mask, 0.0)


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
