"""PPO reaches the policy that is known to be best: pi* ~ ref * exp(r / kl_coef)."""

from pathlib import Path
from typing import Any

import pytest

from stages.contracts import Context
from stages.lm.backends.base import copy_weights
from stages.step3_policy.ppo.config import Advantage, KlLoss, KlPlacement, PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.roles import CriticRole, PolicyRole, ReferenceRole, RewardRole, Roles
from tests.oracles.ppo import tilted, total_variation
from tests.stages.step3_policy.ppo import tabular

REF = [0.4, 0.3, 0.2, 0.1]
REWARDS = [0.0, 3.0, 6.0, 9.0]  # at kl_coef 3: as 0..3 at 1, but whitening rescales them
KL_COEF = 3.0
BEST = [0.085073, 0.173439, 0.314304, 0.427184]


def four_action_loop(folder: Path, **changes: Any) -> PpoLoop:
    values = {
        "iterations": 150,
        "rollout_batch_size": 512,
        "minibatch_size": 128,
        "max_response_tokens": 1,
        "kl_coef": KL_COEF,
        "ptx_coef": 0.0,
        "policy_lr": 0.01,
        "critic_lr": 0.05,
        "ema_decay": 0.99,
        "validation_every": 1000,
        "validation_prompts": 8,
        "sample_rows": 0,
        "checkpoint_every": 1000,
    }
    config = PpoConfig(**(values | changes))
    policy = tabular.TablePolicy(REF)
    roles = Roles(
        policy=PolicyRole(policy, config, tabular.PAD),
        ref_policy=ReferenceRole(tabular.TablePolicy(REF), config),
        critic=CriticRole(tabular.ConstantCritic(), config)
        if config.advantage.needs_critic
        else None,
        reward_model=RewardRole(tabular.TableReward(REWARDS), config),
        engine=tabular.TableEngine(policy),
    )
    prompts = PromptSet(messages=[[]] * 64, tokens=[[tabular.PROMPT]] * 64)
    data = PpoData(tokenizer=None, train=prompts, validation=prompts, documents=[], config=config)
    return PpoLoop(roles=roles, data=data, config=config, context=Context.at(folder))


def reached(loop: PpoLoop) -> list[float]:
    """The probabilities of the average policy after training."""
    loop.train()
    copy_weights(loop.roles.policy.average_weights(), loop.roles.policy.model)
    return loop.roles.policy.model.probabilities()


@pytest.mark.parametrize("placement", list(KlPlacement))
def test_sampled_ppo_reaches_the_tilted_optimum(placement: KlPlacement, tmp_path: Path) -> None:
    """The real loop on four actions, KL in the reward and as a loss.

    Mutations: the KL penalty's sign or its absence; minimum for maximum in the clipped loss; the
    advantage's sign; the KL loss without `advantage_scale`.
    """
    assert tilted(REF, REWARDS, KL_COEF) == pytest.approx(BEST, abs=1e-6)
    found = reached(four_action_loop(tmp_path, kl_placement=placement))
    assert total_variation(found, BEST) < 0.02


RELATIVE = {"samples_per_prompt": 8, "whiten_advantages": False}
ESTIMATORS: dict[str, dict[str, Any]] = {
    "rloo": {"advantage": Advantage.rloo, **RELATIVE},
    "grpo": {"advantage": Advantage.grpo, **RELATIVE},
    "dr_grpo": {"advantage": Advantage.grpo, "group_std": False, **RELATIVE},
    "reinforce_pp": {"advantage": Advantage.reinforce_pp},
}
QUICK = {"iterations": 80, "policy_lr": 0.02, "ema_decay": 0.98}


@pytest.mark.parametrize("name", ESTIMATORS)
def test_every_estimator_reaches_it_with_the_kl_in_the_reward(name: str, tmp_path: Path) -> None:
    """Without a critic. Mutations: the baseline added, the other samples' sum for their mean."""
    found = reached(four_action_loop(tmp_path, **QUICK, **ESTIMATORS[name]))
    assert total_variation(found, BEST) < 0.02


@pytest.mark.parametrize(
    ("name", "kl_coef"),
    [
        ("rloo", KL_COEF),
        ("reinforce_pp", KL_COEF),
        ("dr_grpo", KL_COEF * 8 / 7),  # its mean holds the sample itself: advantages are 7/8
    ],
)
def test_estimators_with_the_kl_as_a_loss(name: str, kl_coef: float, tmp_path: Path) -> None:
    """Mutation: the KL loss without `advantage_scale` (reinforce_pp)."""
    as_loss = {"kl_placement": KlPlacement.loss}
    found = reached(four_action_loop(tmp_path, **QUICK, **as_loss, **ESTIMATORS[name]))
    assert total_variation(found, tilted(REF, REWARDS, kl_coef)) < 0.02


def test_k3_as_a_loss_reaches_the_forward_optimum(tmp_path: Path) -> None:
    """beta ref / (lambda - r), the policy nearest by KL(ref || pi). Mutation: k2 in its place."""
    k3 = {"kl_placement": KlPlacement.loss, "kl_loss": KlLoss.k3}
    found = reached(four_action_loop(tmp_path, **QUICK, **k3))
    assert total_variation(found, [0.1259, 0.1378, 0.1700, 0.5663]) < 0.02
