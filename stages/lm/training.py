"""The one supervised training loop of our own stages (base, reward model), with resume.

Step s is a function of the weights, the optimizer and (seed, s): the data order needs no iterator
state, so a resumed run makes the same steps as one that nobody stopped. Who computes a step, this
process or the ranks of a worker group, the loop does not know (`learning.py`).
"""

import math
import time
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import lru_cache

import numpy as np
import torch
from torch import Tensor

from stages.contracts import Context, InterruptedRunError
from stages.lm.checkpoints import Checkpoints, restore_rng, rng_state
from stages.lm.early_stopping import EarlyStopping
from stages.lm.learning import Figures, Learner
from stages.lm.optimisation import ScheduleConfig, lr_factor

LEARNER = "learner"  # a checkpoint's folder of weights and optimizer


@dataclass(kw_only=True)
class TrainingPlan:
    """How long to train, at what rate, and what happens on the way.

    lr: at the peak of the schedule. validate(): figures to log, `loss/validation` among them, at
    the end and every `validate_every` steps; early stopping has its own.
    """

    total_steps: int
    lr: float
    schedule: ScheduleConfig
    log_every: int = 10
    checkpoint_every: int = 100
    validate: Callable[[], Figures] | None = None
    validate_every: int = 0
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)

    def validates_after(self, done: int) -> bool:
        """Whether there is a validation after `done` steps."""
        every = self.validate_every
        due = done == self.total_steps or (every > 0 and done % every == 0)
        return self.validate is not None and (
            due or self.early_stopping.counts(done, self.total_steps)
        )


@dataclass(kw_only=True)
class Best:
    """The validation with the lowest loss, of those that early stopping counts.

    strikes: how many in a row came after it. Without early stopping it stays as it is here.
    """

    loss: float = math.inf
    step: int = 0
    weights: dict[str, Tensor] = field(default_factory=dict)
    strikes: int = 0

    def note(self, loss: float, done: int, learner: Learner) -> None:
        """Keep the weights where the loss is a new lowest one."""
        self.strikes += 1
        if loss < self.loss:
            self.loss, self.step, self.strikes = loss, done, 0
            self.weights = learner.weights()

    def ends(self, rule: EarlyStopping) -> bool:
        """Whether patience is at its end."""
        return rule.is_on and self.strikes >= rule.patience


@dataclass(kw_only=True)
class Trained:
    """steps: how many were made. best: see there."""

    steps: int
    best: Best


def train_steps(learner: Learner, plan: TrainingPlan, context: Context) -> Trained:
    """Train for `plan.total_steps` steps, or until early stopping, from the latest checkpoint.

    Raises:
        InterruptedRunError: asked to stop; the checkpoint is written.
        NonFiniteError: a loss or gradient is not a finite number.
    """
    checkpoints = Checkpoints(context.checkpoints)
    done, best = _resume(learner, checkpoints, context)
    context.journal.start(plan.total_steps)
    while done < plan.total_steps and not best.ends(plan.early_stopping):
        figures = train_step(learner, plan, done)
        done += 1
        figures |= _validate(learner, plan, best, done)
        _tell(plan, context, done, figures)
        stop = context.should_stop()
        if stop or (done % plan.checkpoint_every == 0 and done < plan.total_steps):
            _save(learner, best, checkpoints, done)
        if stop:
            raise InterruptedRunError(f"stopped after step {done} of {plan.total_steps}")
    return Trained(steps=done, best=best)


def train_step(learner: Learner, plan: TrainingPlan, step: int) -> dict[str, float]:
    """One optimizer step; its figures. NonFiniteError leaves the weights as they were."""
    started = time.perf_counter()
    lr = plan.lr * lr_factor(plan.schedule, step, plan.total_steps)
    figures = learner.train(step, lr)
    return {**figures, "lr": lr, "time/step_s": time.perf_counter() - started}


def _validate(learner: Learner, plan: TrainingPlan, best: Best, done: int) -> Figures:
    """Nothing where none is due. It draws no random number, so it does not disturb the training."""
    if plan.validate is None or not plan.validates_after(done):
        return {}
    with torch.no_grad():
        figures = plan.validate()
    if plan.early_stopping.counts(done, plan.total_steps):
        best.note(figures["loss/validation"], done, learner)
    return figures


def _tell(plan: TrainingPlan, context: Context, done: int, figures: Figures) -> None:
    last = done == plan.total_steps
    if last or done % plan.log_every == 0 or plan.validates_after(done):
        context.journal.log(done, figures)
    context.journal.advance(done, {"loss": figures["loss/train"]})


def _save(learner: Learner, best: Best, checkpoints: Checkpoints, done: int) -> None:
    state = {"best": vars(best), "rng": rng_state()}
    checkpoints.save(done, state, lambda folder: learner.save(folder / LEARNER))


def _resume(learner: Learner, checkpoints: Checkpoints, context: Context) -> tuple[int, Best]:
    """Restore the latest checkpoint, generators last; the number of steps already done."""
    latest = checkpoints.load_latest()
    if latest is None:
        context.journal.rewind(0)
        return 0, Best()
    done, state = latest
    learner.load(checkpoints.path(done) / LEARNER)
    context.journal.rewind(done)
    restore_rng(state["rng"])
    return done, Best(**state["best"])


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
