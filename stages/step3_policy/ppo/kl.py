"""How far the policy went from its reference, from the tokens it sampled.

Inputs are log-probs of the sampled tokens, (B, R) float32, under the policy and the reference;
`log_ratio` is policy minus reference, always. The estimators are Schulman's (2020), in nats: k1 and
k3 are unbiased for KL(policy || reference) when the tokens are the policy's own, k2 nearly.

Where each may stand decides what is learnt. Only k1 in the reward and k2 of the whole sequence as a
loss lead to the optimum pi* ~ ref * exp(r / kl_coef); k2 in the reward collapses, k3 in the reward
diverges, a token's k2 as a loss ignores what the token does to the KL of those after it. k3 as a
loss, which published GRPO has, leads to the forward KL's optimum, ref / (lambda - r / kl_coef).
"""

import torch
from torch import Tensor

from stages.step3_policy.ppo.config import KlLoss
from stages.step3_policy.ppo.masked import sequence_sums


def k1(log_ratio: Tensor) -> Tensor:
    """log(pi/ref): unbiased, of high variance, negative at times."""
    return log_ratio


def k2(log_ratio: Tensor) -> Tensor:
    """Half the squared log-ratio: biased, its gradient as a loss is the KL's."""
    return 0.5 * log_ratio**2


def k3(log_ratio: Tensor) -> Tensor:
    """ref/pi - 1 - log(ref/pi): unbiased, never negative, of low variance. To watch."""
    return torch.expm1(-log_ratio) + log_ratio


def kl_penalty(logprobs: Tensor, ref_logprobs: Tensor, kl_coef: float) -> Tensor:
    """(B, R): each token's share of the reward, -beta log(pi/pi_SFT) (Eq. 2), by k1."""
    return -kl_coef * k1(logprobs - ref_logprobs)


def sequence_k2_losses(
    logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor
) -> Tensor:
    """(B,): half the squared log-ratio of each whole response, gradient through `logprobs`.

    Responses were sampled from the policy of `old_logprobs`: once it has moved, the detached ratio
    of the sequence corrects for that.
    """
    weights = sequence_sums(logprobs - old_logprobs, mask).detach().exp()
    return weights * k2(sequence_sums(logprobs - ref_logprobs, mask))


def sequence_k3_losses(logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor) -> Tensor:
    """(B,): the tokens' k3, summed, gradient through `logprobs` (Shao et al. 2024, Eq. 4).

    Not the penalty of Eq. 2: its gradient is that of KL(ref || policy). As published, nothing
    corrects for the policy having moved since it sampled.
    """
    return sequence_sums(k3(logprobs - ref_logprobs), mask)


def kl_losses(
    kind: KlLoss, logprobs: Tensor, old_logprobs: Tensor, ref_logprobs: Tensor, mask: Tensor
) -> Tensor:
    """(B,): the KL of each response as a loss."""
    if kind is KlLoss.k3:
        return sequence_k3_losses(logprobs, ref_logprobs, mask)
    return sequence_k2_losses(logprobs, old_logprobs, ref_logprobs, mask)


def adapted_kl_coef(
    kl_coef: float, kl: float, *, target_kl: float, episodes: int, horizon: int
) -> float:
    """The next coefficient: up when `kl`, in nats a response, is above its target.

    Ziegler et al. 2019, section 2.2: the error is clipped at 20%; `episodes` is how many responses
    `kl` is the mean of.
    """
    error = min(max(kl / target_kl - 1.0, -0.2), 0.2)
    return kl_coef * (1.0 + error * episodes / horizon)
