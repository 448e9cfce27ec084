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
