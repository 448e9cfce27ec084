"""From one score a response to one reward a token."""

import pytest
import torch

from stages.step3_policy.ppo.config import MissingEos
from stages.step3_policy.ppo.kl import kl_penalty
from stages.step3_policy.ppo.rewards import apply_missing_eos, token_rewards


def test_kl_reward_by_hand() -> None:
    """[-.01, .004, .998], sum .992. Mutation: the penalty's sign; the score at every token."""
    ref = torch.zeros(1, 4)
    logprobs = torch.tensor([[0.5, -0.2, 0.1, 0.0]])
    mask = torch.tensor([[True, True, True, False]])
    rewards = token_rewards(torch.tensor([1.0]), kl_penalty(logprobs, ref, 0.02), mask)
    assert rewards[0].tolist() == pytest.approx([-0.01, 0.004, 0.998, 0.0], abs=1e-7)
    assert rewards.sum().item() == pytest.approx(0.992, abs=1e-6)


def test_score_stands_at_each_responses_own_last_token() -> None:
    """Mutation: `rewards[:, -1]`, or one slot after the last token."""
    mask = torch.tensor([[True, False, False], [True, True, True]])
    rewards = token_rewards(torch.tensor([2.0, 3.0]), torch.zeros(2, 3), mask)
    assert rewards.tolist() == [[2.0, 0.0, 0.0], [0.0, 0.0, 3.0]]


@pytest.mark.parametrize(
    ("rule", "expected"),
    [
        (MissingEos.replace, [0.7, -1.0]),
        (MissingEos.subtract, [0.7, 1.5]),
        (MissingEos.none, [0.7, 2.5]),
    ],
)
def test_missing_eos(rule: MissingEos, expected: list[float]) -> None:
    """Only the response without EOS changes. Mutations: `finished` negated; +penalty."""
    scores, finished = torch.tensor([0.7, 2.5]), torch.tensor([True, False])
    assert apply_missing_eos(scores, finished, rule, 1.0).tolist() == pytest.approx(expected)
