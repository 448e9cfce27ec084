"""Optimizer steps: AdamW, schedules, gradient clipping, and the stop at non-finite values."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Self

import torch
from torch import nn

from stages.contracts import UserError
from stages.lm.adamw import AdamWConfig


class Schedule(StrEnum):
    """How the learning rate goes after warm-up."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a finite number; the weights are as before the step."""


@dataclass(kw_only=True)
class OptimizerConfig(AdamWConfig):
    """AdamW at a peak rate."""

    lr: float

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise UserError(
                "a learning rate must be positive", got=f"lr={self.lr}", do="for example 1e-5"
            )
        self.check_adamw()

    @classmethod
    def of(cls, settings: AdamWConfig, lr: float) -> Self:
        """A stage's settings at one of its rates."""
        own = {spec.name: getattr(settings, spec.name) for spec in fields(AdamWConfig)}
        return cls(lr=lr, **own)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.AdamW:
    """AdamW over the trainable parameters; decay on matrices only, not on norms and biases."""
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    return torch.optim.AdamW(
        groups, lr=config.lr, betas=(config.beta1, config.beta2), eps=config.eps, fused=True
    )


@dataclass(kw_only=True)
class ScheduleConfig:
    """Factor on the peak rate: `start` to 1 over warm-up, then to `end` at the last step."""

    kind: Schedule = Schedule.cosine
    warmup_steps: int = 0
    start: float = 0.1
    end: float = 0.1


def lr_factor(schedule: ScheduleConfig, step: int, total_steps: int) -> float:
    """The factor of step 0, 1, ...: linear warm-up, then constant, cosine or linear decay."""
    if step < schedule.warmup_steps:
        return schedule.start + (1 - schedule.start) * step / schedule.warmup_steps
    if schedule.kind is Schedule.constant:
        return 1.0
    passed = (step - schedule.warmup_steps) / max(1, total_steps - schedule.warmup_steps)
    if schedule.kind is Schedule.cosine:
        return schedule.end + (1 - schedule.end) * 0.5 * (1 + math.cos(math.pi * passed))
    return 1 + (schedule.end - 1) * passed


def clip_and_step(
    optimizer: torch.optim.Optimizer,
    parameters: Iterable[nn.Parameter],
    lr: float,
    max_grad_norm: float,
) -> float:
    """Clip, step and clear the gradients; the norm before clipping.

    Raises NonFiniteError before the weights are touched.
    """
    norm = float(nn.utils.clip_grad_norm_(list(parameters), max_grad_norm))
    if not math.isfinite(norm):
        raise NonFiniteError(f"the gradient norm is {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    optimizer.step()
    optimizer.zero_grad(set_to_none=True)
    return norm
