"""Several samples a prompt, and loops without a critic, on the tiny models."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from stages.contracts import InterruptedRunError, UserError
from stages.lm.rollout import Rollouts
from stages.step3_policy.ppo.config import Advantage, KlLoss, KlPlacement, PpoConfig, Select
from stages.step3_policy.ppo.data import PromptSet
from stages.step3_policy.ppo.loop import PpoLoop, make_experience
from stages.step3_policy.ppo.rollouts import respond

MakeLoop = Callable[..., PpoLoop]
RELATIVE = {"samples_per_prompt": 4, "whiten_advantages": False}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "rloo": {"advantage": Advantage.rloo, **RELATIVE},
    "grpo": {"advantage": Advantage.grpo, **RELATIVE},
    "dr_grpo": {"advantage": Advantage.grpo, "group_std": False, **RELATIVE},
    "reinforce_pp": {"advantage": Advantage.reinforce_pp},
}


def test_samples_of_a_prompt_stand_together_and_differ(make_loop: MakeLoop) -> None:
    """Eight episodes are two prompts, four responses each, drawn with noise of their own.

    Mutations: the prompts cycled through; the sample left out of the noise's key.
    """
    loop = make_loop(**ESTIMATORS["rloo"])
    indices, prompts = loop.data.prompts_of(0)
    assert indices == [indices[0]] * 4 + [indices[4]] * 4
    assert indices[0] != indices[4]
    assert prompts.tokens[:4] == [prompts.tokens[0]] * 4
    figures = loop.iterate(0, 0.02)
    assert figures["rollout/score_std"] > 0


def test_each_prompt_comes_once_before_any_comes_again(make_loop: MakeLoop) -> None:
    """Eight prompts, two an iteration. Mutation: episodes drawn where prompts are meant."""
    loop = make_loop(**ESTIMATORS["rloo"])
    drawn = [index for iteration in range(4) for index in loop.data.prompts_of(iteration)[0]]
    assert sorted(set(drawn)) == list(range(8))
    assert len(drawn) == 32


@pytest.mark.parametrize("name", ESTIMATORS)
def test_without_critic_none_is_loaded_updated_or_kept(make_loop: MakeLoop, name: str) -> None:
    """Mutation: a critic made all the same."""
    loop = make_loop(iterations=2, **ESTIMATORS[name])
    assert loop.roles.critic is None
    figures = loop.iterate(0, 0.02)
    assert not any("critic" in figure or figure == "loss/value" for figure in figures)
    assert figures["grad_norm/policy"] > 0
    loop.train()


@pytest.mark.parametrize("name", ESTIMATORS)
def test_training_continues_bit_for_bit(make_loop: MakeLoop, name: str) -> None:
    """A stop after every iteration. Mutation: minibatches or noise that remember earlier calls."""
    whole = make_loop("whole", **ESTIMATORS[name])
    whole.train()
    for _ in range(3):
        part = make_loop("part", **ESTIMATORS[name])
        part.context.should_stop = lambda: True
        with pytest.raises(InterruptedRunError):
            part.train()
    part = make_loop("part", **ESTIMATORS[name])
    part.train()
    pairs = zip(
        whole.roles.policy.model.parameters(), part.roles.policy.model.parameters(), strict=True
    )
    assert all(torch.equal(a, b) for a, b in pairs)


def sampled(loop: PpoLoop) -> tuple[PromptSet, Rollouts]:
    """The first iteration's prompts and responses."""
    indices, prompts = loop.data.prompts_of(0)
    engine = loop.roles.engine
    return prompts, respond(engine, prompts.tokens, loop.config, stream=0, indices=indices)


def test_published_grpo_has_k3_as_a_loss(make_loop: MakeLoop) -> None:
    """Of every token, not weighted, over the minibatch's tokens: by hand from the log-probs.

    Mutations: k3 of the summed log-ratio; its ratio inverted; scaled like an advantage.
    """
    loop = make_loop(kl_placement=KlPlacement.loss, kl_loss=KlLoss.k3, **ESTIMATORS["grpo"])
    generator = torch.Generator().manual_seed(3)
    with torch.no_grad():
        for parameter in loop.roles.policy.model.parameters():
            parameter.add_(0.05 * torch.randn(parameter.shape, generator=generator))
    experience = make_experience(loop.roles, *sampled(loop), loop.config, 0.5)
    torch.testing.assert_close(experience.advantage_scale, torch.ones(8))
    losses = [loop.roles.policy.policy_gradient(experience, c)["loss/policy"] for c in (0.0, 0.5)]
    ratios = (experience.ref_logprobs - experience.old_logprobs)[experience.mask].double()
    expected = 0.5 * (ratios.exp() - 1 - ratios).mean().item()
    assert losses[1] - losses[0] == pytest.approx(expected, rel=1e-4)


@pytest.mark.parametrize(
    ("changes", "named", "do"),
    [
        ({"advantage": Advantage.rloo}, "samples_per_prompt must be 2", "samples_per_prompt=2"),
        (
            {"advantage": Advantage.grpo, "rollout_batch_size": 9, "minibatch_size": 9},
            "samples_per_prompt must be 2",
            "samples_per_prompt=3",
        ),
        (
            {"advantage": Advantage.rloo, "samples_per_prompt": 5},
            "samples_per_prompt must divide rollout_batch_size",
            "samples_per_prompt=4",
        ),
        ({"samples_per_prompt": 0}, "samples_per_prompt must be positive", "above 0"),
        (
            {"advantage": Advantage.reinforce_pp, "whiten_advantages": False},
            "whiten_advantages",
            "whiten_advantages=true",
        ),
        ({"kl_loss": KlLoss.k3}, "kl_loss has no effect", "kl_placement=loss"),
        ({"select": Select.gold}, "select cannot be gold", "proxy_judge"),
    ],
)
def test_impossible_settings_name_what_to_do(changes: dict[str, Any], named: str, do: str) -> None:
    """The nearest valid value, before any work."""
    with pytest.raises(UserError) as caught:
        PpoConfig(**changes)
    assert named in caught.value.what
    assert do in caught.value.do


def test_k3_as_a_loss_comes_with_a_caution() -> None:
    assert PpoConfig().cautions() == []
    assert PpoConfig(kl_placement=KlPlacement.loss).cautions() == []
    (caution,) = PpoConfig(kl_placement=KlPlacement.loss, kl_loss=KlLoss.k3).cautions()
    assert "forward" in caution
