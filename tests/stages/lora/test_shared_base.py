"""Four roles on one base: shared weights, and gradients that nothing between can spoil."""

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor

from reward.model import critic_from, load_reward_model
from stages.lm.batching import collate
from stages.lm.loading import load_causal_lm
from stages.lm.logprobs import response_logprobs
from stages.lm.peft.adapters import load_adapted, merged_weights
from stages.lm.precision import Precision
from stages.step3_policy.ppo.loading import load_parts
from tests.stages.lora.chain import ppo_config
from tests.stages.step3_policy.ppo.small_ppo import folders_of

BATCH = collate([[1, 4, 9, 8], [1, 4, 7]], [[10, 11, 12, 2], [13, 14]], 0)
ROLES = ("policy", "ref_policy", "critic", "reward_model")


@pytest.fixture
def roles(inputs: dict[str, Path]) -> dict[str, Any]:
    return load_parts(ppo_config(), folders_of(inputs), [*ROLES, "engine"])


def adapted(model: Any) -> dict[str, Tensor]:
    return {name: p for name, p in model.named_parameters() if p.requires_grad}


def test_one_base_in_memory(world: Path, roles: dict[str, Any]) -> None:
    """All that is no adapter and no head, over all roles, is as large as the base.

    Mutation: a deep copy without the memo.
    """
    tensors = {
        p
        for role in ROLES
        for name, p in roles[role].model.named_parameters()
        if not ({"score", "head"} & set(name.split(".")) or "lora_" in name)
    }
    base = load_causal_lm(world / "base" / "model")
    assert sum(p.numel() for p in tensors) == base.num_parameters()
    assert not any(p.requires_grad for p in tensors)


def test_trained_are_the_policys_adapter_and_the_critics_with_its_head(
    roles: dict[str, Any],
) -> None:
    assert all("lora_" in name for name in adapted(roles["policy"].model))
    critic = adapted(roles["critic"].model)
    assert {name for name in critic if "lora_" not in name} == {"head.weight", "head.bias"}
    assert not adapted(roles["ref_policy"].model)
    assert not adapted(roles["reward_model"].model)
    shards = roles["policy"].backend.shards()
    assert len(shards) == len(adapted(roles["policy"].model))
    assert roles["policy"].average.weights.keys() == shards.keys()


def test_roles_are_what_their_merged_folders_are(
    inputs: dict[str, Path], roles: dict[str, Any]
) -> None:
    """Policy and reference are SFT, scores and first values the reward model's.

    Mutations: the adapter forgotten in the reference; a fresh head; reward_bias not read.
    """
    merged = load_causal_lm(inputs["ppo_init"] / "model")
    expected = response_logprobs(merged, BATCH)
    logprobs, _ = roles["policy"].logprobs_and_entropies(BATCH)
    assert torch.equal(logprobs, roles["ref_policy"].logprobs(BATCH))
    assert torch.allclose(logprobs, expected, atol=1e-5)
    reward_model = load_reward_model(inputs["reward_model"] / "model")
    assert reward_model.reward_bias != 0
    scores = roles["reward_model"].scores(BATCH)
    assert torch.allclose(scores, reward_model.scores(BATCH), atol=1e-5)
    values = critic_from(reward_model).values(BATCH)
    assert torch.allclose(roles["critic"].values(BATCH), values, atol=1e-5)


@pytest.mark.parametrize("checkpointing", [False, True])
def test_gradients_are_those_of_a_model_with_that_adapter_alone(
    inputs: dict[str, Path], roles: dict[str, Any], checkpointing: bool
) -> None:
    """All other roles compute between the policy's forward and its backward, the critic's own
    backward among it; with checkpointing that backward runs the policy's forward again.

    Mutation: policy and reference as two adapters of one PEFT model, selected by `set_adapter`:
    every gradient is then None, with checkpointing and without.
    """
    alone = load_adapted(
        inputs["base"] / "model", inputs["ppo_init"] / "model", trainable=True
    ).get_base_model()
    policy, critic = roles["policy"].model, roles["critic"].model
    perturb(policy)
    perturb(alone)
    if checkpointing:
        for model in (policy, alone, critic.backbone):
            model.gradient_checkpointing_enable()
            model.train()  # Transformers checkpoints in training mode only; nothing drops out
    response_logprobs(alone, BATCH).sum().backward()

    loss = response_logprobs(policy, BATCH).sum()
    value_loss = critic.values(BATCH).square().sum()
    roles["ref_policy"].logprobs(BATCH)
    value_loss.backward()
    roles["reward_model"].scores(BATCH)
    roles["engine"].generate([[1, 4, 9]], sampling(), keys())
    loss.backward()

    expected = {name: p.grad for name, p in adapted(alone).items()}
    found = {name: p.grad for name, p in adapted(policy).items()}
    assert found.keys() == expected.keys()
    for name, gradient in expected.items():
        assert gradient is not None
        assert gradient.abs().max() > 0, name
        assert torch.allclose(found[name], gradient, atol=1e-6), name


def perturb(model: Any) -> None:
    """The same other weights, so that the policy is not the reference."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for parameter in adapted(model).values():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))


def sampling() -> Any:
    from stages.lm.rollout import Sampling

    return Sampling(max_new_tokens=4)


def keys() -> Any:
    from stages.lm.rollout import sampling_keys

    return sampling_keys(0, 0, [0], [0])


def test_decoders_compute_in_bf16_with_adapters_in_float32(
    inputs: dict[str, Path], roles: dict[str, Any]
) -> None:
    """Mutation: `compute_in` on the policy alone: its ratio to the reference would not be 1."""
    config = ppo_config(precision=Precision.bf16)
    rounded = load_parts(config, folders_of(inputs), ROLES)
    logprobs, _ = rounded["policy"].logprobs_and_entropies(BATCH)
    exact, _ = roles["policy"].logprobs_and_entropies(BATCH)
    assert torch.equal(logprobs, rounded["ref_policy"].logprobs(BATCH))
    assert 0 < (logprobs - exact).abs().max() < 0.1
    response_logprobs(rounded["policy"].model, BATCH).sum().backward()
    for p in adapted(rounded["policy"].model).values():
        assert p.dtype == p.grad.dtype == torch.float32


def test_an_engine_of_its_own_samples_as_the_policy_after_a_sync(
    inputs: dict[str, Path], roles: dict[str, Any]
) -> None:
    """Adapter-only: exactly the policy. Merged, as vLLM gets it: within rounding.

    Mutations: the sync of the frozen adapter; the merge without alpha / rank.
    """
    perturb(roles["policy"].model)
    expected, _ = roles["policy"].logprobs_and_entropies(BATCH)
    other = load_parts(ppo_config(), folders_of(inputs), ["policy", "engine"])["engine"]
    before = response_logprobs(other.model, BATCH)
    assert not torch.allclose(before, expected, atol=1e-2)
    weights = roles["policy"].engine_weights()
    assert all("lora_" in name for name in weights)
    other.load_weights(1, weights.items())
    assert torch.equal(response_logprobs(other.model, BATCH), expected)

    plain = load_causal_lm(inputs["ppo_init"] / "model")
    parameters = dict(plain.named_parameters())
    with torch.no_grad():
        for name, tensor in merged_weights(roles["policy"].model).items():
            parameters[name].copy_(tensor)
    assert torch.allclose(response_logprobs(plain, BATCH), expected, atol=1e-5)


def test_the_base_stays_as_it_was(roles: dict[str, Any]) -> None:
    """After both optimizers stepped, all but the two adapters and the head is what it was."""
    frozen = {
        f"{role}.{name}": p.clone()
        for role in ROLES
        for name, p in roles[role].model.named_parameters()
        if not p.requires_grad
    }
    for role in ("policy", "critic"):
        output = roles[role].backend.forward(BATCH)
        roles[role].backend.backward(output.sum())
        roles[role].backend.step(0.1)
    for role in ROLES:
        for name, p in roles[role].model.named_parameters():
            if not p.requires_grad:
                assert torch.equal(p, frozen[f"{role}.{name}"]), (role, name)
