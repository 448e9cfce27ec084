"""Where a KL estimator stands decides the optimum: exact gradients on enumerable problems.

Every response is enumerated and weighted by its probability, so there is no sampling noise: what is
reached is the fixed point of the rule itself. kl_coef is 1 throughout.
"""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from stages.step3_policy.ppo.advantages import gae
from stages.step3_policy.ppo.kl import k1, k2, k3, kl_penalty, sequence_k2_losses
from stages.step3_policy.ppo.losses import policy_losses
from stages.step3_policy.ppo.rewards import token_rewards
from tests.oracles.ppo import tilted, total_variation

REF = torch.tensor([0.4, 0.3, 0.2, 0.1], dtype=torch.float64)
REWARDS = torch.tensor([0.0, 1.0, 2.0, 3.0], dtype=torch.float64)
BEST = [0.085073, 0.173439, 0.314304, 0.427184]


def descend(logits: list[Tensor], loss_of: Callable[[], Tensor], steps: int) -> None:
    """Adam with a rate that falls to zero; `loss_of` gives the exact expected loss."""
    optimizer = torch.optim.Adam(logits, lr=0.05)
    for step in range(steps):
        optimizer.param_groups[0]["lr"] = 0.05 * (1 - step / steps)
        optimizer.zero_grad()
        loss_of().backward()
        optimizer.step()


def four_actions(
    in_reward: Callable[[Tensor], Tensor] | None, as_loss: Callable[[Tensor], Tensor] | None
) -> list[float]:
    """The policy reached when the estimator stands in the reward, or beside it as a loss."""
    logits = REF.log().clone().requires_grad_()

    def loss_of() -> Tensor:
        logprobs = logits.log_softmax(-1)
        log_ratio = logprobs - REF.log()
        rewards = REWARDS - (in_reward(log_ratio).detach() if in_reward else 0.0)
        losses, _, _ = policy_losses(logprobs, logprobs.detach(), rewards, 0.2)
        return (logprobs.detach().exp() * (losses + (as_loss(log_ratio) if as_loss else 0.0))).sum()

    descend([logits], loss_of, steps=1500)
    return logits.detach().softmax(-1).tolist()


@pytest.mark.parametrize(
    ("in_reward", "as_loss", "reached"),
    [
        (k1, None, BEST),
        (None, k2, BEST),
        (k2, None, [0.0, 0.0, 0.475, 0.525]),  # collapses
        (None, k1, [0.0, 0.0, 0.0, 1.0]),  # no gradient in expectation: greedy
        (None, k3, [0.1259, 0.1378, 0.1700, 0.5663]),  # ref / (lambda - r): the forward KL's
    ],
)
def test_only_k1_in_the_reward_and_k2_as_a_loss_reach_the_optimum(
    in_reward: Callable | None, as_loss: Callable | None, reached: list[float]
) -> None:
    """Mutations: a sign or the half in k1, k2; the inverted ratio in k3."""
    assert total_variation(four_actions(in_reward, as_loss), reached) < 0.01


def test_k3_in_the_reward_stays_far_from_the_optimum() -> None:
    """It diverges: actions that the policy leaves get a reward without bound."""
    assert total_variation(four_actions(k3, None), BEST) > 0.2


# Two tokens: the first changes which second ones the reference likes.
FIRST = torch.tensor([0.5, 0.3, 0.2], dtype=torch.float64)
SECOND = torch.tensor([[0.2, 0.3, 0.5], [0.6, 0.3, 0.1], [0.1, 0.1, 0.8]], dtype=torch.float64)
PAYS = torch.tensor([[0.0, 1, 2], [2, 0, 1], [1, 3, 0]], dtype=torch.float64)
MASK = torch.ones(9, 2, dtype=torch.bool)


def token_logprobs(first: Tensor, second: Tensor) -> Tensor:
    """(9, 2): log-probs of both tokens of each of the nine responses."""
    of_first = first.log_softmax(-1)[:, None].expand(3, 3)
    return torch.stack([of_first, second.log_softmax(-1)], -1).reshape(9, 2)


REF_LOGPROBS = token_logprobs(FIRST.log(), SECOND.log())


def k1_in_reward(logprobs: Tensor) -> Tensor:
    """(9,): PPO's loss of each response with Monte Carlo advantages."""
    old = logprobs.detach()
    rewards = token_rewards(PAYS.flatten(), kl_penalty(old, REF_LOGPROBS, 1.0), MASK)
    advantages, _ = gae(rewards, torch.zeros_like(rewards), MASK, gamma=1.0, gae_lambda=1.0)
    return policy_losses(logprobs, old, advantages, 0.2)[0].sum(-1)


def without_kl(logprobs: Tensor) -> Tensor:
    """(9,): the same for the bare reward."""
    advantages = PAYS.reshape(9, 1).expand(9, 2)
    return policy_losses(logprobs, logprobs.detach(), advantages, 0.2)[0].sum(-1)


def sequence_k2(logprobs: Tensor) -> Tensor:
    """(9,): the reward, and k2 of the whole response as a loss."""
    return without_kl(logprobs) + sequence_k2_losses(
        logprobs, logprobs.detach(), REF_LOGPROBS, MASK
    )


def token_k2(logprobs: Tensor) -> Tensor:
    """(9,): the reward, and the sum of the tokens' k2 as a loss."""
    return without_kl(logprobs) + k2(logprobs - REF_LOGPROBS).sum(-1)


def two_tokens(losses: Callable[[Tensor], Tensor]) -> tuple[float, float]:
    """Total variation to the optimum, and the objective E[r] - KL, of the policy reached."""
    first, second = FIRST.log().clone().requires_grad_(), SECOND.log().clone().requires_grad_()

    def loss_of() -> Tensor:
        logprobs = token_logprobs(first, second)
        return (logprobs.detach().sum(-1).exp() * losses(logprobs)).sum()

    descend([first, second], loss_of, steps=1200)
    reached = token_logprobs(first, second).detach().sum(-1)
    best = tilted(REF_LOGPROBS.sum(-1).exp().tolist(), PAYS.flatten().tolist(), 1.0)
    value = (reached.exp() * (PAYS.flatten() - reached + REF_LOGPROBS.sum(-1))).sum().item()
    return total_variation(reached.exp().tolist(), best), value


@pytest.mark.parametrize("losses", [k1_in_reward, sequence_k2])
def test_two_tokens_reach_the_optimum(losses: Callable[[Tensor], Tensor]) -> None:
    """max J = 1.49798. Mutations: tokens' squares summed in sequence_k2; GAE's next term cut."""
    distance, value = two_tokens(losses)
    assert distance < 1e-3
    assert value == pytest.approx(1.49798, abs=1e-4)


def test_k2_of_each_token_stops_short() -> None:
    """It drops what a token does to the KL of those after it."""
    distance, value = two_tokens(token_k2)
    assert distance == pytest.approx(0.109, abs=2e-3)
    assert value == pytest.approx(1.456, abs=2e-3)
