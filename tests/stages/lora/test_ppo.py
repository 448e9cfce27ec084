"""The PPO stage with adapters: published, resumed bit for bit, on two processes, refused."""

from collections.abc import Iterator
from pathlib import Path

import pytest
import torch

from stages.contracts import InterruptedRunError, UserError
from stages.lm.backends.config import BackendKind
from stages.lm.checkpoints import read_state
from stages.lm.loading import load_causal_lm, model_hash
from stages.lm.peft.adapters import MergeError, check_merged, load_adapted
from stages.step3_policy.ppo.config import Select
from stages.step3_policy.ppo.placement import PlacementConfig
from stages.step3_policy.ppo.stage import run
from tests.stages.lora.chain import context_at, never, ppo_config
from tests.stages.step3_policy.ppo import trajectories
from tests.stages.step3_policy.ppo.trajectories import (
    FOUR_FORWARDS,
    ONE_FORWARD,
    Processes,
    distance,
    first_difference,
    placed,
)

HASHED = ("model", "model/adapter", "ema", "ema/adapter")


def train(inputs: dict[str, Path], folder: Path, should_stop=never, **changes):
    config = ppo_config(**changes)
    context = context_at(folder, should_stop)
    return run(config, **inputs, out=folder / "out", context=context)


def test_publishes_merged_weights_and_their_adapters(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Mutation: the average's adapter beside the last weights."""
    report = train(inputs, tmp_path, select=Select.last)
    base = inputs["base"] / "model"
    assert report.contract["base_sha256"] == model_hash(base)
    tokens = torch.arange(5, 25)[None]
    logits = {}
    for name in ("model", "ema"):
        folder = tmp_path / "out" / name
        logits[name] = load_causal_lm(folder)(tokens).logits
        assert torch.allclose(logits[name], load_adapted(base, folder)(tokens).logits, atol=1e-5)
    start = load_causal_lm(inputs["ppo_init"] / "model")(tokens).logits
    assert not torch.allclose(logits["model"], start, atol=1e-3)
    assert not torch.allclose(logits["model"], logits["ema"], atol=1e-4)


def test_continues_bit_for_bit_and_keeps_what_it_trains(
    inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Stopped after every iteration. Mutations: the critic's head or the average left out."""
    train(inputs, tmp_path / "whole")
    parts = tmp_path / "parts"
    for _ in range(2):
        with pytest.raises(InterruptedRunError, match="after iteration"):
            train(inputs, parts, lambda: any(parts.rglob("meta.json")))
        (checkpoint,) = (tmp_path / "parts" / "checkpoints").glob("step_*")
        for saved in ("policy/weights", "policy/average", "critic/weights"):
            names = read_state(checkpoint / saved / "whole.pt")
            assert names
            assert all("lora_" in name or "head." in name for name in names)
    train(inputs, tmp_path / "parts")
    for name in HASHED:
        whole, parts = (tmp_path / run / "out" / name for run in ("whole", "parts"))
        assert model_hash(parts) == model_hash(whole)


@pytest.fixture(scope="module")
def processes() -> Iterator[Processes]:
    torch.set_num_threads(1)
    made = Processes()
    yield made
    made.close()


@pytest.mark.parametrize(
    "split", [pytest.param(True, marks=pytest.mark.slow, id="split"), pytest.param(False, id="one")]
)
def test_two_ranks_of_ddp_follow_one_process(
    inputs: dict[str, Path], tmp_path: Path, processes: Processes, split: bool
) -> None:
    """Free sampling; split, the engine of its own group is sent the adapter.

    Mutation: the engine not synced.
    """
    values = {"rollout_batch_size": 16, "minibatch_size": 8, "policy_lr": 1e-3, "critic_lr": 1e-3}
    one = ppo_config(**values, microbatch_tokens=ONE_FORWARD)
    two = ppo_config(
        **values, microbatch_tokens=4 * FOUR_FORWARDS, placement=placed(2, "ddp", split=split)
    )
    expected = trajectories.run(one, inputs, tmp_path / "one", iterations=3)
    workers = processes.of(two)
    found = trajectories.run(two, inputs, tmp_path / "two", workers=workers, iterations=3)
    assert first_difference(found, expected) == ""
    assert distance(found, expected) < 1e-5


@pytest.mark.parametrize("backend", [BackendKind.fsdp2, BackendKind.deepspeed])
def test_backends_that_split_weights_are_refused(backend: BackendKind) -> None:
    with pytest.raises(UserError, match="cannot be trained with"):
        ppo_config(placement=PlacementConfig(processes=2, backend=backend))


def test_a_reward_model_on_another_base_is_refused(
    world: Path, inputs: dict[str, Path], tmp_path: Path
) -> None:
    """Both are named. Mutation: only the policy's adapter looked at."""
    other = tmp_path / "reward_model" / "model" / "adapter"
    other.mkdir(parents=True)
    (other / "base.json").write_text('{"model_sha256": "0123456789abcdef"}')
    wrong = {**inputs, "reward_model": tmp_path / "reward_model"}
    with pytest.raises(UserError, match="reward_model is an adapter on another base") as fault:
        train(wrong, tmp_path)
    assert "01234567" in fault.value.got
    assert model_hash(world / "base" / "model")[:8] in fault.value.got


def test_a_merge_that_computes_something_else_is_refused() -> None:
    apart = torch.tensor([-20.0, 0.0, 5.0])
    check_merged(apart, apart + 0.01)
    for wrong in (0.03, torch.nan):
        with pytest.raises(MergeError):
            check_merged(apart, apart + torch.tensor([0.0, 0.0, wrong]))
