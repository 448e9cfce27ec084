"""Which weights sampled what is fixed by the config, whoever samples, whatever is interrupted."""

import os
import signal
import sys
from collections.abc import Callable, Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.lm.engines.config import Correction, RolloutConfig
from stages.lm.engines.remote import EngineRestartWarning, Launch, RemoteEngine
from stages.lm.rollout import Rollouts
from stages.step3_policy.ppo.loop import PpoLoop
from stages.step3_policy.ppo.rollouts import StaleRolloutsError, respond
from tests.stages.step3_policy.ppo.test_resume import (
    continues_after_a_breakdown,
    final_state,
    same,
)

ROOT = Path(__file__).parents[4]
SERVER = ROOT / "tests" / "stages" / "lm" / "engines" / "fake_server.py"
ASYNC = RolloutConfig(async_steps=1, correction=Correction.truncate, max_logprob_diff=1e-4)
OPTIONS: dict[str, Any] = {"iterations": 4, "checkpoint_every": 2, "rollout": ASYNC}


@pytest.mark.parametrize(("ahead", "versions"), [(0, [0, 1, 2, 3]), (1, [0, 0, 1, 2])])
def test_an_iteration_learns_from_the_weights_that_the_config_says(
    make_loop: Callable[..., PpoLoop],
    monkeypatch: pytest.MonkeyPatch,
    ahead: int,
    versions: list[int],
) -> None:
    """The responses are made again with the weights kept of each version.

    Mutations: the next batch begun after the update; before the weights are given.
    """
    loop = make_loop(**OPTIONS | {"rollout": replace(ASYNC, async_steps=ahead)})
    source, kept, taken = loop.source, {}, []
    load, take = loop.roles.engine.load_weights, source.take

    def loading(version: int, tensors: Any) -> None:
        kept[version] = {n: w.clone() for n, w in loop.roles.policy.weights().items()}
        load(version, tensors)

    def taking(iteration: int) -> Any:
        taken.append(take(iteration))
        return taken[-1]

    monkeypatch.setattr(loop.roles.engine, "load_weights", loading)
    monkeypatch.setattr(source, "take", taking)
    loop.train()
    assert [rollouts.version for _, rollouts in taken] == versions
    for iteration, (version, (prompts, rollouts)) in enumerate(zip(versions, taken, strict=True)):
        load(version, kept[version].items())
        indices, _ = loop.data.prompts_of(iteration)
        again = respond(
            loop.roles.engine, prompts.tokens, loop.config, stream=iteration, indices=indices
        )
        assert again.tokens == rollouts.tokens


# Calls of `generate`: 1 validation, then with async_steps=1 2 rollouts 0, 3 probe, 4 rollouts 1,
# 5 probe, 6 rollouts 2, 7 validation, a checkpoint, 8 probe, 9 rollouts 3, 10 probe.
@pytest.mark.parametrize(("owner", "call"), [("engine", 4), ("engine", 9), ("critic", 6)])
def test_continues_bit_for_bit_with_rollouts_in_flight(
    make_loop: Callable[..., PpoLoop], owner: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Mutations: the flight left out of the checkpoint; sampled again with the weights of now."""
    continues_after_a_breakdown(make_loop, OPTIONS, owner, call, monkeypatch)


def test_overlapping_changes_what_is_learnt(make_loop: Callable[..., PpoLoop]) -> None:
    """Else the tests above compare nothing."""
    plain, ahead = (
        make_loop("plain", iterations=3),
        make_loop("ahead", **OPTIONS | {"iterations": 3}),
    )
    plain.train()
    ahead.train()
    assert not same(final_state(plain)["policy"], final_state(ahead)["policy"])


def test_stale_rollouts_are_refused(
    make_loop: Callable[..., PpoLoop], monkeypatch: pytest.MonkeyPatch
) -> None:
    """An engine that answers with other weights than it was given last: nothing is judged by it.

    Mutation: no check in `respond`.
    """
    loop = make_loop()
    original = loop.roles.engine.generate

    def stale(*args: Any) -> Rollouts:
        return replace(original(*args), version=original(*args).version - 1)

    monkeypatch.setattr(loop.roles.engine, "generate", stale)
    with pytest.raises(StaleRolloutsError, match="version -1 of the weights, 0 was wanted"):
        loop.train()
    assert not (loop.context.checkpoints.parent / "metrics.jsonl").exists()


@pytest.fixture
def remote(ppo_inputs: dict[str, Path], tmp_path: Path) -> Iterator[RemoteEngine]:
    """The engine on the tiny model in a process of its own."""
    launch = Launch(
        command=[sys.executable, str(SERVER), "hf"],
        environment={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"},
        setup={"model": str(ppo_inputs["ppo_init"] / "model")},
        log=tmp_path / "engine.log",
        deadlines_s={"start": 100.0, "load": 30.0, "generate": 30.0},
        restarts=1,
    )
    engine = RemoteEngine(launch, torch.float32)
    yield engine
    engine.close()


@pytest.fixture
def unprepared_process() -> Iterator[None]:
    """Products as in the engine's process, though an earlier test prepared this one for a stage."""
    products = torch.backends.mkldnn.matmul
    before, products.fp32_precision = products.fp32_precision, "none"
    yield
    products.fp32_precision = before


def test_another_process_gives_the_same_training_even_if_it_dies(
    make_loop: Callable[..., PpoLoop], remote: RemoteEngine, unprepared_process: None
) -> None:
    """Bit for bit, in step and one update ahead; the second time the process is killed on the way.

    Mutations: weights not sent after an update; the restarted process left with its first ones;
    keys not sent.
    """
    own, other = make_loop("own", iterations=2), make_loop("other", iterations=2)
    other.roles.engine = remote
    own.train()
    other.train()
    assert same(final_state(other), final_state(own))

    own, other = make_loop("own_ahead", **OPTIONS), make_loop("other_ahead", **OPTIONS)
    other.roles.engine = remote
    own.train()
    update, updates = other.roles.critic.update, []

    def killing(*args: Any) -> Any:
        updates.append(None)
        if len(updates) == 3:
            os.kill(remote._server.process.pid, signal.SIGKILL)
        return update(*args)

    other.roles.critic.update = killing
    with pytest.warns(EngineRestartWarning, match="SIGKILL"):
        other.train()
    assert same(final_state(other), final_state(own))
