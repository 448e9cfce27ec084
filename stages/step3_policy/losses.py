"""The losses of DPO and its relatives on log-probabilities, as their papers write them.

For a pair with the better completion w and the worse l, log-probs summed over their tokens:

    r(y) = log pi(y|x) - log pi_ref(y|x)      h = r(w) - r(l)       p(y) = log pi(y|x) / |y|

    sigmoid  -(1-e) log s(beta h) - e log s(-beta h)        DPO (Rafailov et al. 2023, Eq. 7): e=0
                                                            conservative DPO (Mitchell 2023): e>0
    robust   [-(1-e) log s(beta h) + e log s(-beta h)] / (1-2e)     Chowdhury et al. 2024
    hinge    max(0, 1 - beta h)                             SLiC as RSO writes it (Liu et al. 2024)
    ipo      (h - 1/(2 beta))^2                             IPO (Azar et al. 2024, Eq. 17)
    simpo    -log s(beta p(w) - beta p(l) - gamma)          SimPO (Meng et al. 2024, Eq. 6)
    orpo     -p(w) - beta log s(log odds(w) - log odds(l))  ORPO (Hong et al. 2024, Eq. 6)
             log odds(y) = p(y) - log(1 - exp p(y))

    kto      lambda_D (1 - s(beta (r - z0))), or lambda_U (1 - s(beta (z0 - r))) of one completion
             z0 = max(0, mean r of mismatched prompts and completions)  (Ethayarajh et al. 2024)

s is the sigmoid, e the label smoothing. `per_token` puts r(y) / |y| in place of r(y).
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor
from torch.nn.functional import logsigmoid

from stages.step3_policy.config import DpoConfig, KtoConfig, PairLoss

CERTAIN = -1e-6  # ORPO's odds of a completion more probable than exp of that a token are capped


@dataclass(frozen=True, kw_only=True)
class Sums:
    """Of N completions, each (N,): log pi(y|x) and log pi_ref(y|x), summed, and their tokens.

    reference: zeros for a loss that has none.
    """

    policy: Tensor
    reference: Tensor
    tokens: Tensor

    @classmethod
    def stack(cls, rows: list[tuple[float, float, int]]) -> Self:
        """From (policy, reference, tokens) of each completion, in float64."""
        policy, reference, tokens = torch.tensor(rows, dtype=torch.float64).T
        return cls(policy=policy, reference=reference, tokens=tokens)

    @property
    def logratio(self) -> Tensor:
        """(N,): r(y)."""
        return self.policy - self.reference

    @property
    def mean_logprob(self) -> Tensor:
        """(N,): p(y)."""
        return self.policy / self.tokens


def implicit_reward(sums: Sums, config: DpoConfig) -> Tensor:
    """(N,): what the loss raises for the better completion; times beta the implicit reward."""
    if not config.loss.has_reference:
        return sums.mean_logprob
    return sums.logratio / sums.tokens if config.per_token else sums.logratio


def pair_losses(better: Sums, worse: Sums, config: DpoConfig) -> Tensor:
    """(N,) losses of N pairs."""
    beta, smoothing = config.beta, config.label_smoothing
    h = implicit_reward(better, config) - implicit_reward(worse, config)
    match config.loss:
        case PairLoss.sigmoid:
            return -(1 - smoothing) * logsigmoid(beta * h) - smoothing * logsigmoid(-beta * h)
        case PairLoss.robust:
            kept, flipped = logsigmoid(beta * h), logsigmoid(-beta * h)
            return (-(1 - smoothing) * kept + smoothing * flipped) / (1 - 2 * smoothing)
        case PairLoss.hinge:
            return torch.relu(1 - beta * h)
        case PairLoss.ipo:
            return (h - 1 / (2 * beta)) ** 2
        case PairLoss.simpo:
            return -logsigmoid(beta * h - config.gamma)
        case PairLoss.orpo:
            odds_ratio = log_odds(better.mean_logprob) - log_odds(worse.mean_logprob)
            return -better.mean_logprob - beta * logsigmoid(odds_ratio)


def log_odds(logprob: Tensor) -> Tensor:
    """log(p / (1 - p)) of log p below 0."""
    capped = logprob.clamp(max=CERTAIN)
    return capped - torch.log(-torch.expm1(capped))


def reference_point(mismatched: Tensor) -> Tensor:
    """(): KTO's z0 from the log-ratios of mismatched completions; no gradient."""
    return mismatched.detach().mean().clamp(min=0)


def kto_losses(logratio: Tensor, desirable: Tensor, z0: Tensor, config: KtoConfig) -> Tensor:
    """(N,) losses of N completions; desirable: (N,) bool."""
    gain = config.beta * torch.where(desirable, logratio - z0, z0 - logratio)
    weight = torch.where(desirable, config.desirable_weight, config.undesirable_weight)
    return weight * (1 - torch.sigmoid(gain))
