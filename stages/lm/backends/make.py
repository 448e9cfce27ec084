"""The backend that a config names, around a module whose forward the role calls."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from stages.contracts import UserError
from stages.lm.adamw import AdamWKind
from stages.lm.backends.base import Backend, SingleProcess
from stages.lm.backends.config import BackendKind
from stages.lm.optimisation import OptimizerConfig


def make_backend(
    module: nn.Module,
    config: OptimizerConfig,
    kind: BackendKind,
    deepspeed: Mapping[str, Any],
) -> Backend:
    """Called on all ranks; `deepspeed` is read by that backend alone, under its own keys.

    Raises:
        UserError: fp16 or 8-bit moments where weights or optimizer are split over the ranks.
    """
    check_backend(kind, config)
    if kind is BackendKind.ddp:
        from stages.lm.backends.ddp import DataParallel

        return DataParallel(module, config)
    if kind is BackendKind.fsdp2:
        from stages.lm.backends.fsdp import FullyShardedDataParallel

        return FullyShardedDataParallel(module, config)
    if kind is BackendKind.deepspeed:
        from stages.lm.backends.zero import Zero

        return Zero(module, config, deepspeed)
    return SingleProcess(module, config)


def check_backend(kind: BackendKind, config: OptimizerConfig) -> None:
    """Loss scaling and 8-bit moments are written for whole weights."""
    asked = {"precision=fp16": config.scales_loss}
    asked["optimizer=adamw_8bit"] = config.optimizer is AdamWKind.adamw_8bit
    for key, wanted in asked.items():
        if wanted and kind in (BackendKind.deepspeed, BackendKind.fsdp2):
            raise UserError(
                f"{key} works where every process has the whole weights",
                got=f"placement.backend={kind}",
                do="placement.backend=ddp, or leave it out: these backends split the optimizer",
            )
