"""PPO's settings: the paper's values, and what is refused."""

import pytest

from stages.contracts import UserError, nearest_divisor
from stages.step3_policy.ppo.config import PpoConfig


def test_batch_arithmetic_of_the_paper() -> None:
    """App. C.4: 256k episodes, 8 minibatches, 4,000 updates, 512 documents each."""
    config = PpoConfig()
    assert config.iterations * config.rollout_batch_size == 256_000
    assert (config.num_minibatches, config.num_updates, config.num_documents) == (8, 4000, 512)


def test_a_minibatch_that_does_not_divide_names_the_nearest() -> None:
    with pytest.raises(UserError, match="minibatch_size=64"):
        PpoConfig(minibatch_size=60)
    assert nearest_divisor(12, 5) == 4
    assert nearest_divisor(7, 6) == 7


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"policy_lr": -1e-6}, "policy_lr"),
        ({"kl_coef": -0.1}, "kl_coef"),
        ({"gae_lambda": 1.5}, "gae_lambda"),
        ({"value_clip_range": 0.0}, "value_clip_range"),
        ({"rollout_batch_size": 4, "minibatch_size": 4}, "whitening needs 8"),
        ({"ptx_ratio": 0.001}, "ptx_ratio"),
        ({"temperature": 0.0}, "temperature"),
    ],
)
def test_impossible_values_are_refused(changes: dict, named: str) -> None:
    with pytest.raises(UserError, match=named):
        PpoConfig(**changes)


def test_small_batches_run_without_whitening() -> None:
    PpoConfig(rollout_batch_size=4, minibatch_size=4, whiten_advantages=False)


def test_plain_ppo_uses_no_documents() -> None:
    assert PpoConfig(ptx_coef=0.0, ptx_ratio=0.0).num_documents == 0
