"""The one supervised training loop of our own stages (base, reward model), with resume.

Step s is a function of the weights, the optimizer and (seed, s): the data order needs no iterator
state, so a resumed run makes the same steps as one that nobody stopped.
"""

import math
import time
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass
from functools import lru_cache
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from stages.contracts import Context, InterruptedRunError
from stages.lm.checkpoints import Checkpoints, restore_rng, rng_state
from stages.lm.optimisation import (
    NonFiniteError,
    OptimizerConfig,
    ScheduleConfig,
    clip_and_step,
    lr_factor,
    make_optimizer,
)

Figures = Mapping[str, float]
LossesAt = Callable[[int], Iterable[tuple[Tensor, Figures]]]


@dataclass(kw_only=True)
class TrainingPlan:
    """What to train and how long.

    losses_at(step): the micro-batches of a step as (loss, figures); losses and figures of one step
    add up to its mean, so the caller weights them. validate(): figures to log, at the end and every
    `validate_every` steps.
    """

    losses_at: LossesAt
    total_steps: int
    optimizer: OptimizerConfig
    schedule: ScheduleConfig
    log_every: int = 10
    checkpoint_every: int = 100
    validate: Callable[[], Figures] | None = None
    validate_every: int = 0


def train_steps(model: nn.Module, plan: TrainingPlan, context: Context) -> None:
    """Train `model` in place for `plan.total_steps` steps, from the latest checkpoint if any."""
    optimizer = make_optimizer(model, plan.optimizer)
    checkpoints = Checkpoints(context.checkpoints)
    done = _resume(model, optimizer, checkpoints, context)
    context.journal.start(plan.total_steps)
    for step in range(done, plan.total_steps):
        figures = train_step(model, optimizer, plan, step)
        _tell(model, plan, context, step + 1, figures)
        stop = context.should_stop()
        if stop or ((step + 1) % plan.checkpoint_every == 0 and step + 1 < plan.total_steps):
            checkpoints.save(step + 1, _state(model, optimizer))
        if stop:
            raise InterruptedRunError(f"stopped after step {step + 1} of {plan.total_steps}")


def train_step(
    model: nn.Module, optimizer: torch.optim.Optimizer, plan: TrainingPlan, step: int
) -> dict[str, float]:
    """One optimizer step; its figures. NonFiniteError leaves the weights as they were."""
    started = time.perf_counter()
    totals: dict[str, float] = {"loss/train": 0.0}
    for loss, figures in plan.losses_at(step):
        if not math.isfinite(float(loss.detach())):
            raise NonFiniteError(f"the loss of step {step + 1} is {float(loss.detach())}")
        loss.backward()  # type: ignore[no-untyped-call]  # torch leaves it untyped
        totals["loss/train"] += float(loss.detach())
        for name, value in figures.items():
            totals[name] = totals.get(name, 0.0) + value
    lr = plan.optimizer.lr * lr_factor(plan.schedule, step, plan.total_steps)
    norm = clip_and_step(optimizer, model.parameters(), lr, plan.optimizer.max_grad_norm)
    return {**totals, "grad_norm": norm, "lr": lr, "time/step_s": time.perf_counter() - started}


def _tell(
    model: nn.Module, plan: TrainingPlan, context: Context, done: int, figures: dict[str, float]
) -> None:
    """Log and validate. Validation draws no random number, so it does not disturb the training."""
    last = done == plan.total_steps
    due = last or (plan.validate_every > 0 and done % plan.validate_every == 0)
    if plan.validate is not None and due:
        was_training = model.training
        model.eval()
        with torch.no_grad():
            figures = {**figures, **plan.validate()}
        model.train(was_training)
    if due or done % plan.log_every == 0:
        context.journal.log(done, figures)
    context.journal.advance(done, {"loss": figures["loss/train"]})


def _state(model: nn.Module, optimizer: torch.optim.Optimizer) -> dict[str, Any]:
    frozen = {name for name, p in model.named_parameters() if not p.requires_grad}
    trained = {name: t for name, t in model.state_dict().items() if name not in frozen}
    return {"model": trained, "optimizer": optimizer.state_dict(), "rng": rng_state()}


def _resume(
    model: nn.Module, optimizer: torch.optim.Optimizer, checkpoints: Checkpoints, context: Context
) -> int:
    """Restore the latest checkpoint, generators last; the number of steps already done."""
    latest = checkpoints.load_latest()
    if latest is None:
        context.journal.rewind(0)
        return 0
    done, state = latest
    model.load_state_dict({**model.state_dict(), **state["model"]})
    optimizer.load_state_dict(state["optimizer"])
    context.journal.rewind(done)
    restore_rng(state["rng"])
    return done


def batch_indices(num_items: int, batch_size: int, seed: int, step: int) -> list[int]:
    """The items of step s: epochs of fresh permutations cut into batches, from (seed, s)."""
    return [
        _item(num_items, seed, position)
        for position in range(step * batch_size, (step + 1) * batch_size)
    ]


def _item(num_items: int, seed: int, position: int) -> int:
    epoch, offset = divmod(position, num_items)
    return int(_permutation(num_items, seed, epoch)[offset])


@lru_cache(maxsize=2)
def _permutation(num_items: int, seed: int, epoch: int) -> np.ndarray:
    return np.random.default_rng([seed, epoch]).permutation(num_items)


def epochs_to_steps(num_items: int, batch_size: int, epochs: float) -> int:
    """Optimizer steps of `epochs` passes, the last one rounded up."""
    return math.ceil(num_items * epochs / batch_size)
