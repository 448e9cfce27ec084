"""Optimizer steps: AdamW, schedules, gradient clipping, and the stop at non-finite values."""

import math
from collections.abc import Iterable
from dataclasses import dataclass, fields
from enum import StrEnum
from typing import Any, Self

import torch
from torch import nn

from stages.contracts import UserError
from stages.lm.adamw import AdamWConfig, AdamWKind
from stages.lm.precision import Precision


class Schedule(StrEnum):
    """How the learning rate goes after warm-up."""

    constant = "constant"
    cosine = "cosine"
    linear = "linear"


class NonFiniteError(RuntimeError):
    """A loss or gradient that is not a finite number; the weights are as before the step."""


@dataclass(kw_only=True)
class OptimizerConfig(AdamWConfig):
    """AdamW at a peak rate. scales_loss: before the backward, as fp16 needs it."""

    lr: float
    scales_loss: bool = False

    def __post_init__(self) -> None:
        if not self.lr > 0:
            raise UserError(
                "a learning rate must be positive", got=f"lr={self.lr}", do="for example 1e-5"
            )
        self.check_adamw()

    @classmethod
    def of(cls, settings: AdamWConfig, lr: float, precision: Precision = Precision.fp32) -> Self:
        """A stage's settings at one of its rates."""
        own = {spec.name: getattr(settings, spec.name) for spec in fields(AdamWConfig)}
        return cls(lr=lr, scales_loss=precision is Precision.fp16, **own)


def make_optimizer(model: nn.Module, config: OptimizerConfig) -> torch.optim.Optimizer:
    """AdamW over the trainable parameters; decay on matrices only, not on norms and biases.

    In 8 bits, parameters of fewer than 4,096 numbers keep moments of 32.
    """
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = [
        {"params": [p for p in trainable if p.dim() >= 2], "weight_decay": config.weight_decay},
        {"params": [p for p in trainable if p.dim() < 2], "weight_decay": 0.0},
    ]
    own: dict[str, Any] = {
        "lr": config.lr,
        "betas": (config.beta1, config.beta2),
        "eps": config.eps,
    }
    if config.optimizer is AdamWKind.adamw_8bit:
        from bitsandbytes.optim.adamw import AdamW8bit

        eight_bits: torch.optim.Optimizer = AdamW8bit(groups, **own)  # type: ignore[no-untyped-call]
        return eight_bits
    return torch.optim.AdamW(groups, **own, fused=True)


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
    scaler: torch.amp.GradScaler | None = None,
) -> float:
    """Clip, step and clear the gradients; the norm before clipping.

    scaler: by what the loss was scaled. A norm that is not finite then means that the scale was too
    large: the step is left out and the scale halved (Micikevicius et al. 2018, section 3.2). Raises
    NonFiniteError before the weights are touched: without a scale, and with one that is below 1.
    """
    scaler = scaler or torch.amp.GradScaler(enabled=False)
    scaler.unscale_(optimizer)
    norm = float(nn.utils.clip_grad_norm_(list(parameters), max_grad_norm))
    if not math.isfinite(norm) and scaler.get_scale() <= 1:
        raise NonFiniteError(f"the gradient norm is {norm}")
    for group in optimizer.param_groups:
        group["lr"] = lr
    scaler.step(optimizer)
    scaler.update()
    optimizer.zero_grad(set_to_none=True)
    return norm
