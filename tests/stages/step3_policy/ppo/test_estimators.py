"""The estimators without a critic: hand-worked numbers, plain references, limits, invariances."""

from collections.abc import Callable

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from stages.step3_policy.ppo.advantages import Targets, estimate, gae, grpo, reward_to_go, rloo
from stages.step3_policy.ppo.config import Advantage, PpoConfig
from tests.oracles import ppo as oracle

# One prompt, four responses of one, two or three tokens; the rewards of each sum to 4, 1, 2 and 1.
REWARDS = torch.tensor(
    [[4.0, 9.9, 9.9], [-0.5, 1.5, 9.9], [-0.01, 0.004, 2.006], [0.25, 0.75, 9.9]]
)
MASK = torch.tensor(
    [[True, False, False], [True, True, False], [True, True, True], [True, True, False]]
)


def relative(kind: str, rewards: Tensor, mask: Tensor, samples: int = 4) -> Tensor:
    if kind == "rloo":
        return rloo(rewards, mask, samples_per_prompt=samples)
    return grpo(rewards, mask, samples_per_prompt=samples, group_std=kind == "grpo")


@pytest.mark.parametrize(
    ("kind", "expected"),
    [
        ("rloo", [4 - 4 / 3, 1 - 7 / 3, 2 - 2, 1 - 7 / 3]),
        ("dr_grpo", [2.0, -1.0, 0.0, -1.0]),
        ("grpo", [2 / 1.5**0.5, -1 / 1.5**0.5, 0, -1 / 1.5**0.5]),  # variance (4 + 1 + 0 + 1) / 4
    ],
)
def test_by_hand(kind: str, expected: list[float]) -> None:
    """Every token of a response has its advantage, padding has 0.

    Mutations: the sample in its own RLOO baseline; an unbiased deviation; rewards of padding.
    """
    found = relative(kind, REWARDS, MASK)
    wanted = torch.tensor(expected)[:, None].expand(4, 3) * MASK
    torch.testing.assert_close(found, wanted, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize(("first", "second"), [(3.0, 1.0), (-2.0, 5.0), (0.998, 0.992)])
def test_of_two_samples_each_is_the_others_baseline(first: float, second: float) -> None:
    """RLOO: plus and minus the difference; Dr. GRPO half of it; GRPO its sign alone."""
    rewards, mask = torch.tensor([[first], [second]]), torch.ones(2, 1, dtype=torch.bool)
    gap = first - second
    sign = 1.0 if gap > 0 else -1.0
    for kind, expected in (("rloo", gap), ("dr_grpo", gap / 2), ("grpo", sign)):
        found = relative(kind, rewards, mask, samples=2)
        torch.testing.assert_close(
            found, torch.tensor([[expected], [-expected]]), atol=1e-3, rtol=0
        )


numbers = st.floats(-2, 2, allow_nan=False, width=32)
responses = st.lists(numbers, min_size=1, max_size=5)


@st.composite
def rollout_batches(draw: st.DrawFn) -> tuple[list[list[float]], int]:
    """Responses to one to three prompts, two to four to each."""
    samples = draw(st.integers(2, 4))
    prompts = draw(st.integers(1, 3))
    size = samples * prompts
    return draw(st.lists(responses, min_size=size, max_size=size)), samples


def padded(batch: list[list[float]], rubbish: float) -> tuple[Tensor, Tensor]:
    width = max(map(len, batch)) + 1
    mask = torch.tensor([[t < len(row) for t in range(width)] for row in batch])
    rows = [row + [rubbish] * (width - len(row)) for row in batch]
    return torch.tensor(rows, dtype=torch.float64), mask


@settings(max_examples=60, deadline=None)
@given(drawn=rollout_batches())
def test_equals_the_plain_reference(drawn: tuple[list[list[float]], int]) -> None:
    """Prompt by prompt in plain Python. Mutation: samples of a prompt taken from every P-th row."""
    batch, samples = drawn
    rewards, mask = padded(batch, rubbish=1e6)
    found = {kind: relative(kind, rewards, mask, samples) for kind in ("rloo", "dr_grpo")}
    for start in range(0, len(batch), samples):
        totals = [sum(row) for row in batch[start : start + samples]]
        plain = {
            "rloo": oracle.leave_one_out(totals),
            "dr_grpo": oracle.group_relative(totals, over_std=False),
        }
        for kind, expected in plain.items():
            for row, value in enumerate(expected, start):
                length = len(batch[row])
                assert found[kind][row, :length].tolist() == pytest.approx(
                    [value] * length, abs=1e-9
                )
                assert found[kind][row, length:].abs().sum() == 0


@settings(max_examples=60, deadline=None)
@given(batch=st.lists(responses, min_size=1, max_size=4), gamma=st.sampled_from([1.0, 0.9]))
def test_reward_to_go_equals_the_plain_sum(batch: list[list[float]], gamma: float) -> None:
    """Mutation: what came before counted; the reward of the token itself left out."""
    rewards, mask = padded(batch, rubbish=torch.nan)
    found = reward_to_go(rewards, mask, gamma=gamma)
    for row, own in enumerate(batch):
        expected = oracle.reward_to_go(own, gamma)
        assert found[row, : len(own)].tolist() == pytest.approx(expected, abs=1e-9)


def test_grpo_does_not_see_shift_and_scale_of_a_prompts_rewards() -> None:
    """Dr. GRPO and RLOO see the scale. Mutation: one deviation for the whole batch."""
    generator = torch.Generator().manual_seed(0)
    rewards = torch.randn(6, 1, generator=generator)
    mask = torch.ones(6, 1, dtype=torch.bool)
    changed = torch.cat([10.0 + 3.0 * rewards[:3], rewards[3:] - 7.0])
    torch.testing.assert_close(
        relative("grpo", changed, mask, 3), relative("grpo", rewards, mask, 3), atol=1e-4, rtol=1e-4
    )
    for kind in ("rloo", "dr_grpo"):
        plain = relative(kind, rewards, mask, 3)
        scaled = torch.cat([3.0 * plain[:3], plain[3:]])
        torch.testing.assert_close(relative(kind, changed, mask, 3), scaled, atol=1e-5, rtol=1e-4)


def test_samples_that_score_alike_teach_nothing() -> None:
    """Their deviation is 0. Mutation: the deviation without its epsilon (NaN)."""
    rewards, mask = torch.full((4, 1), 2.0), torch.ones(4, 1, dtype=torch.bool)
    for kind in ("rloo", "dr_grpo", "grpo"):
        assert relative(kind, rewards, mask).abs().max() == 0


def test_rloo_is_scaled_dr_grpo() -> None:
    """K / (K - 1): the sample's own part of the mean."""
    torch.testing.assert_close(
        relative("rloo", REWARDS, MASK), 4 / 3 * relative("dr_grpo", REWARDS, MASK)
    )


def test_gae_without_values_and_lambda_one_is_the_reward_to_go() -> None:
    """And with values it is the returns less the values. Mutation: lambda in the reward to go."""
    values = torch.tensor([[0.5, 0.4, 0.3], [1.0, -1.0, 0.2], [0.0, 0.7, 0.1], [2.0, 0.1, 0.9]])
    advantages, _ = gae(REWARDS, values, MASK, gamma=1.0, gae_lambda=1.0)
    expected = (reward_to_go(REWARDS, MASK, gamma=1.0) - values) * MASK
    torch.testing.assert_close(advantages, expected)


def config_of(advantage: Advantage, **changes: object) -> PpoConfig:
    """As `align/advantage=` chooses it, for batches of eight."""
    relative = advantage.compares_samples
    values = {
        "rollout_batch_size": 8,
        "minibatch_size": 8,
        "samples_per_prompt": 4 if relative else 1,
        "whiten_advantages": not relative,
    }
    return PpoConfig(advantage=advantage, **(values | changes))


def random_batch() -> tuple[Tensor, Tensor, Tensor]:
    """Rewards, values and mask of eight responses."""
    generator = torch.Generator().manual_seed(1)
    rewards, values = torch.randn(2, 8, 5, generator=generator)
    lengths = torch.tensor([5, 1, 3, 4, 2, 5, 3, 1])
    return rewards, values, torch.arange(5) < lengths[:, None]


def estimated(advantage: Advantage, change: Callable[[Tensor], Tensor] = lambda t: t) -> Targets:
    rewards, values, mask = (change(tensor) for tensor in random_batch())
    critic = values if advantage.needs_critic else None
    return estimate(rewards, critic, mask, config_of(advantage))


def test_reinforce_pp_has_mean_zero_and_variance_one_over_the_batch() -> None:
    """Mutations: the mean of each response, or of a prompt's, in place of the batch's."""
    targets, (_, _, mask) = estimated(Advantage.reinforce_pp), random_batch()
    tokens = targets.advantages[mask]
    assert tokens.mean().item() == pytest.approx(0.0, abs=1e-6)
    assert tokens.var(correction=0).item() == pytest.approx(1.0, abs=1e-4)
    rewards, _, _ = random_batch()
    raw = reward_to_go(rewards, mask, gamma=1.0)[mask]
    assert float(targets.scale) == pytest.approx(1 / raw.std(correction=0).item(), rel=1e-4)
    torch.testing.assert_close(
        tokens, (raw - raw.mean()) / raw.std(correction=0), atol=1e-5, rtol=1e-4
    )


@pytest.mark.parametrize("advantage", list(Advantage))
def test_only_gae_has_returns_for_a_critic(advantage: Advantage) -> None:
    targets = estimated(advantage)
    assert (targets.returns is not None) == advantage.needs_critic == (advantage == "gae")
    if advantage.compares_samples:
        assert targets.scale == 1.0


@pytest.mark.parametrize("advantage", list(Advantage))
def test_prompts_and_their_samples_may_change_places(advantage: Advantage) -> None:
    """Groups among one another, and samples within a group. Mutation: interleaved groups."""
    order = [6, 4, 7, 5, 1, 0, 3, 2]
    moved = estimated(advantage, lambda tensor: tensor[order]).advantages
    torch.testing.assert_close(moved, estimated(advantage).advantages[order], atol=1e-6, rtol=1e-5)


@pytest.mark.parametrize("advantage", list(Advantage))
def test_padding_changes_nothing(advantage: Advantage) -> None:
    """Two more columns of rubbish. Mutation: sums over `rewards * mask` (NaN gets through)."""
    rewards, values, mask = random_batch()
    rubbish, nothing = torch.full((8, 2), torch.nan), torch.zeros(8, 2)
    wide = estimate(
        torch.cat([rewards.masked_fill(~mask, torch.nan), rubbish], 1),
        torch.cat([values, rubbish], 1) if advantage.needs_critic else None,
        torch.cat([mask, nothing.bool()], 1),
        config_of(advantage),
    )
    plain = estimated(advantage)
    torch.testing.assert_close(wide.advantages, torch.cat([plain.advantages, nothing], 1))


def test_whitening_may_be_added_to_rloo() -> None:
    """Over the batch, as some implementations have it."""
    rewards, _, mask = random_batch()
    config = config_of(Advantage.rloo, whiten_advantages=True)
    tokens = estimate(rewards, None, mask, config).advantages[mask]
    assert tokens.std(correction=0).item() == pytest.approx(1.0, abs=1e-4)
