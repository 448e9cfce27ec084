"""A run that is stopped, broken or killed anywhere ends with the weights of one that was not."""

import json
import multiprocessing
import os
import signal
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch

from stages.contracts import InterruptedRunError
from stages.lm.loading import model_hash
from stages.step3_policy.ppo.config import KlController, Select
from stages.step3_policy.ppo.loop import PpoLoop
from tests.stages.step3_policy.ppo import killing
from tests.stages.step3_policy.ppo.small_ppo import judged

# Checkpoints after iterations 2 and, at a stop, any other; validations at 0, 2 and 4.
OPTIONS: dict[str, Any] = {
    "iterations": 4,
    "checkpoint_every": 2,
    "kl_controller": KlController.adaptive,
    "select": Select.proxy_judge,
}


class BreakdownError(Exception):
    """The planted failure."""


def final_state(loop: PpoLoop) -> dict[str, Any]:
    """Everything that PPO ends with."""
    trained = loop.roles.trained
    optimizers = {name: role.backend.optimizer.state_dict() for name, role in trained.items()}
    weights = {name: role.model.state_dict() for name, role in trained.items()}
    return {**weights, "optimizers": optimizers, "average": trained["policy"].average_weights()}


def logged(loop: PpoLoop) -> list[tuple[int, dict[str, float]]]:
    """What the journal holds, without times."""
    path = loop.context.checkpoints.parent / "metrics.jsonl"
    records = [json.loads(line) for line in path.read_text().splitlines()]
    return [
        (r["step"], {k: v for k, v in r["values"].items() if not k.startswith("time/")})
        for r in records
    ]


def same(a: Any, b: Any) -> bool:
    if isinstance(a, torch.Tensor):
        return torch.equal(a, b)
    if isinstance(a, dict):
        return a.keys() == b.keys() and all(same(a[key], b[key]) for key in a)
    if isinstance(a, list | tuple):
        return len(a) == len(b) and all(map(same, a, b))
    return a == b


def continues_after_a_breakdown(
    make_loop: Callable[..., PpoLoop],
    options: dict[str, Any],
    owner: str,
    call: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Plant a failure in the owner's n-th call, continue, compare with a run that had none."""
    whole = make_loop("whole", **options)
    whole_state = whole.train()

    broken = make_loop("broken", **options)
    part, name = getattr(broken.roles, owner), {"engine": "generate", "critic": "update"}[owner]
    original, calls = getattr(part, name), []

    def failing(*args: Any, **kwargs: Any) -> Any:
        calls.append(None)
        if len(calls) == call:
            raise BreakdownError
        return original(*args, **kwargs)

    monkeypatch.setattr(part, name, failing)
    with pytest.raises(BreakdownError):
        broken.train()

    resumed = make_loop("broken", **options)
    resumed_state = resumed.train()
    assert same(final_state(resumed), final_state(whole))
    assert same(vars(resumed_state), vars(whole_state))
    assert logged(resumed) == logged(whole)


@pytest.mark.parametrize(
    ("owner", "call"),
    [
        ("engine", 3),  # the second iteration's rollout: nothing saved yet
        ("engine", 4),  # the validation before the first checkpoint
        ("critic", 8),  # the very last update: the third iteration is logged and not saved
    ],
)
def test_continues_bit_for_bit_after_a_breakdown(
    make_loop: Callable[..., PpoLoop], owner: str, call: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Broken in sampling or between the two updates, before and after checkpoints.

    Mutations: the critic, an optimizer, the average or kl_coef left out of the checkpoint; the
    journal not rewound.
    """
    continues_after_a_breakdown(make_loop, OPTIONS, owner, call, monkeypatch)


def test_a_stop_writes_a_checkpoint_and_the_next_run_continues(
    make_loop: Callable[..., PpoLoop],
) -> None:
    """Also when asked after the last iteration: nothing is left but to publish."""
    whole = make_loop("whole", **OPTIONS)
    whole_state = whole.train()
    for _ in range(4):
        stopped = make_loop("stopped", **OPTIONS)
        stopped.context.should_stop = lambda: True
        with pytest.raises(InterruptedRunError):
            stopped.train()
    resumed = make_loop("stopped", **OPTIONS)
    assert same(vars(resumed.train()), vars(whole_state))
    assert same(final_state(resumed), final_state(whole))


def test_killed_at_three_points(
    ppo_inputs: dict[str, Path], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """SIGKILL in a rollout, an update and a half-written save; each new process continues.

    Mutation: a checkpoint written in place instead of beside its name.
    """
    # Imports are paid once: each run is a fork of a server that trained nothing yet. The server
    # finds the modules through the environment alone.
    monkeypatch.setenv("PYTHONPATH", os.pathsep.join(sys.path))
    processes = multiprocessing.get_context("forkserver")
    processes.set_forkserver_preload([killing.__name__])

    def ends_with(folder: str, point: str) -> int | None:
        process = processes.Process(
            target=killing.run_stage, args=(judged(ppo_inputs), tmp_path / folder, point)
        )
        process.start()
        process.join()
        return process.exitcode

    assert ends_with("whole", "end") == 0
    for point in ("first rollout", "save", "second update"):
        assert ends_with("killed", point) == -signal.SIGKILL
    assert ends_with("killed", "end") == 0
    for model in ("model", "ema"):
        whole, killed = (tmp_path / run / "out" / model for run in ("whole", "killed"))
        assert model_hash(killed) == model_hash(whole)
