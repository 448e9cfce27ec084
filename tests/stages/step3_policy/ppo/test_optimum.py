"""PPO reaches the policy that is known to be best: pi* ~ ref * exp(r / kl_coef)."""

from pathlib import Path
from typing import Any

import pytest

from stages.contracts import Context
from stages.step3_policy.ppo.config import KlPlacement, PpoConfig
from stages.step3_policy.ppo.data import PpoData, PromptSet
from stages.step3_policy.ppo.ema import copy_weights
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
        critic=CriticRole(tabular.ConstantCritic(), config),
        reward_model=RewardRole(tabular.TableReward(REWARDS), config),
        engine=tabular.TableEngine(policy),
    )
    prompts = PromptSet(messages=[[]] * 64, tokens=[[tabular.PROMPT]] * 64)
    data = PpoData(tokenizer=None, train=prompts, validation=prompts, documents=[], config=config)
    return PpoLoop(roles=roles, data=data, config=config, context=Context.at(folder))


@pytest.mark.parametrize("placement", list(KlPlacement))
def test_sampled_ppo_reaches_the_tilted_optimum(placement: KlPlacement, tmp_path: Path) -> None:
    """The real loop on four actions, KL in the reward and as a loss.

    Mutations: the KL penalty's sign or its absence; minimum for maximum in the clipped loss; the
    advantage's sign; the KL loss without `advantage_scale`.
    """
    loop = four_action_loop(tmp_path, kl_placement=placement)
    loop.train()
    copy_weights(loop.roles.policy.average_weights(), loop.roles.policy.model)
    assert tilted(REF, REWARDS, KL_COEF) == pytest.approx(BEST, abs=1e-6)
    assert total_variation(loop.roles.policy.model.probabilities(), BEST) < 0.02
