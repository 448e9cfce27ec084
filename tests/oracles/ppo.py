"""Slow plain-Python references for PPO: one token after another, no tensors."""

import math


def gae(
    rewards: list[float], values: list[float], gamma: float, gae_lambda: float
) -> tuple[list[float], list[float]]:
    """Advantages as the explicit sum of discounted TD errors of one response, and the returns."""
    last = len(rewards)
    deltas = [
        rewards[t] + (gamma * values[t + 1] if t + 1 < last else 0.0) - values[t]
        for t in range(last)
    ]
    advantages = [
        sum((gamma * gae_lambda) ** (s - t) * deltas[s] for s in range(t, last))
        for t in range(last)
    ]
    return advantages, [a + v for a, v in zip(advantages, values, strict=True)]


def leave_one_out(rewards: list[float]) -> list[float]:
    """Each sample's reward less the mean of the other samples of its prompt."""
    others = [rewards[:i] + rewards[i + 1 :] for i in range(len(rewards))]
    return [reward - sum(rest) / len(rest) for reward, rest in zip(rewards, others, strict=True)]


def group_relative(rewards: list[float], *, over_std: bool) -> list[float]:
    """Each sample's reward less its prompt's mean, over the prompt's standard deviation or not."""
    mean = sum(rewards) / len(rewards)
    std = math.sqrt(sum((reward - mean) ** 2 for reward in rewards) / len(rewards))
    return [(reward - mean) / (std if over_std else 1.0) for reward in rewards]


def reward_to_go(rewards: list[float], gamma: float) -> list[float]:
    """What each token of one response still gets, itself included."""
    last = len(rewards)
    return [sum(gamma ** (s - t) * rewards[s] for s in range(t, last)) for t in range(last)]


def clipped_policy_loss(ratio: float, advantage: float, clip_range: float) -> float:
    """Case by case, as Schulman et al. 2017, Fig. 1 draws it; to be minimised."""
    if advantage >= 0:
        return -min(ratio, 1 + clip_range) * advantage
    return -max(ratio, 1 - clip_range) * advantage


def tilted(ref: list[float], rewards: list[float], kl_coef: float) -> list[float]:
    """The optimum of E[r] - kl_coef KL(pi || ref): ref * exp(r / kl_coef), normalised."""
    weights = [p * math.exp(r / kl_coef) for p, r in zip(ref, rewards, strict=True)]
    return [weight / sum(weights) for weight in weights]


def total_variation(p: list[float], q: list[float]) -> float:
    """Half the summed absolute difference of two distributions."""
    return 0.5 * sum(abs(a - b) for a, b in zip(p, q, strict=True))
