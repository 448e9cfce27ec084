"""Data parallel: a whole copy a rank, gradients summed by torch's DistributedDataParallel."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.nn.parallel import DistributedDataParallel

from stages.lm.backends.base import SingleProcess
from stages.lm.optimisation import OptimizerConfig


class DataParallel(SingleProcess):
    """The ranks hold equal weights and optimizers, so rank 0's are all that is saved."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        super().__init__(module, config)
        self.wrapped = DistributedDataParallel(module, broadcast_buffers=False)

    def forward(self, *inputs: Any) -> Tensor:
        """Through the wrapper, whose hooks sum the gradients during the backward."""
        output: Tensor = self.wrapped(*inputs)
        return output

    def begin(self, *, last_of_part: bool, last_of_step: bool) -> None:
        """Sum over ranks only in the last backward of a part."""
        del last_of_step
        self.wrapped.require_backward_grad_sync = last_of_part

    def backward(self, loss: Tensor) -> None:
        """DistributedDataParallel averages over ranks."""
        super().backward(loss * dist.get_world_size())

    def save(self, folder: Path) -> None:
        """By rank 0."""
        if dist.get_rank() == 0:
            super().save(folder)

    def save_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """By rank 0."""
        if dist.get_rank() == 0:
            super().save_shards(shards, folder)
