"""FSDP2: torch's `fully_shard` splits weights, gradients and optimizer by rows over the ranks."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch.distributed as dist
from torch import Tensor, nn
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.fsdp import FSDPModule, fully_shard
from torch.distributed.tensor import DTensor

from stages.lm.backends.base import SingleProcess, check_norm, copy_into
from stages.lm.backends.ranks import rank_file
from stages.lm.checkpoints import read_state, write_state
from stages.lm.optimisation import OptimizerConfig


class FullyShardedDataParallel(SingleProcess):
    """Weights are gathered layer by layer in every forward and backward, and freed after it."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        device = next(module.parameters()).device.type
        mesh = init_device_mesh(device, (dist.get_world_size(),))
        for layer in layers(module):
            fully_shard(layer, mesh=mesh)
        # Else a forward without backward would leave the root's weights as they were then.
        self.sharded: FSDPModule = fully_shard(module, mesh=mesh, reshard_after_forward=True)
        super().__init__(module, config)

    def begin(self, *, last_of_part: bool, last_of_step: bool) -> None:
        """Sum over ranks only in the last backward of a part."""
        del last_of_step
        self.sharded.set_requires_gradient_sync(last_of_part)

    def backward(self, loss: Tensor) -> None:
        """FSDP averages over ranks."""
        super().backward(loss * dist.get_world_size())

    def gradient_norm(self) -> float | None:
        """Over all shards."""
        return float(whole(nn.utils.get_total_norm(self._gradients())))

    def step(self, lr: float) -> float:
        """As `clip_and_step`, whose norm would be this rank's alone."""
        norm = whole(nn.utils.get_total_norm(self._gradients()))
        check_norm(float(norm))
        nn.utils.clip_grads_with_norm_(self._trainable(), self.config.max_grad_norm, norm)
        for group in self.optimizer.param_groups:
            group["lr"] = lr
        self.optimizer.step()
        self.optimizer.zero_grad(set_to_none=True)
        return float(norm)

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """All ranks' rows."""
        return {name: whole(shard).cpu() for name, shard in shards.items()}

    def save(self, folder: Path) -> None:
        """Files of each rank, of plain tensors."""
        self.save_shards(self.shards(), folder / "weights")
        write_state(local(self.optimizer.state_dict()), folder / "optimizer" / rank_file())

    def load(self, folder: Path) -> None:
        """This rank's rows."""
        self.load_shards(self.shards(), folder / "weights")
        state = read_state(folder / "optimizer" / rank_file())
        parameters = [p for group in self.optimizer.param_groups for p in group["params"]]
        for index, moments in state["state"].items():
            for name in ("exp_avg", "exp_avg_sq"):
                moments[name] = like(parameters[index], moments[name])
        self.optimizer.load_state_dict(state)

    def save_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """This rank's rows."""
        write_state(local(dict(shards)), folder / rank_file())

    def load_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """This rank's rows."""
        copy_into(local(dict(shards)), read_state(folder / rank_file()))


def layers(module: nn.Module) -> list[nn.Module]:
    """The blocks that are gathered one by one: members of lists of modules, inner ones first."""
    lists = [part for part in module.modules() if isinstance(part, nn.ModuleList)]
    return [layer for part in reversed(lists) for layer in part]


def whole(tensor: Tensor) -> Tensor:
    """All ranks' rows of a sharded tensor."""
    return tensor.full_tensor() if isinstance(tensor, DTensor) else tensor


def of_rank(tensor: Tensor) -> Tensor:
    """This rank's rows of a sharded tensor."""
    return tensor.to_local() if isinstance(tensor, DTensor) else tensor


def like(parameter: Tensor, rows: Tensor) -> Tensor:
    """This rank's rows as a tensor that is sharded like `parameter`."""
    assert isinstance(parameter, DTensor)
    return DTensor.from_local(
        rows.to(parameter.device),
        parameter.device_mesh,
        parameter.placements,
        shape=parameter.shape,
        stride=parameter.stride(),
    )


def local(value: Any) -> Any:
    """The same nest of dictionaries and lists with this rank's rows."""
    if isinstance(value, dict):
        return {key: local(item) for key, item in value.items()}
    if isinstance(value, list):
        return [local(item) for item in value]
    return of_rank(value) if isinstance(value, Tensor) else value
