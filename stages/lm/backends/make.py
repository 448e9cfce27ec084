"""The backend that a config names, around a module whose forward the role calls."""

from collections.abc import Mapping
from typing import Any

from torch import nn

from stages.lm.backends.base import Backend, SingleProcess
from stages.lm.backends.config import BackendKind
from stages.lm.optimisation import OptimizerConfig


def make_backend(
    module: nn.Module,
    config: OptimizerConfig,
    kind: BackendKind,
    deepspeed: Mapping[str, Any],
) -> Backend:
    """Called on all ranks; `deepspeed` is read by that backend alone, under its own keys."""
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
