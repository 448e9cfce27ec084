"""DeepSpeed's ZeRO 1, 2 and 3: optimizer, gradients, weights split over the ranks in turn.

One `deepspeed.initialize` a model, so that policy and critic live side by side in a process.
"""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist
from torch import Tensor, nn

from stages.contracts import UserError
from stages.lm.backends.base import check_norm, copy_into
from stages.lm.backends.ranks import rank_file
from stages.lm.checkpoints import read_state, write_state
from stages.lm.optimisation import OptimizerConfig, make_optimizer

TAG = "zero"


class Zero:
    """The model inside a DeepSpeed engine; our AdamW does the steps."""

    def __init__(
        self, module: nn.Module, config: OptimizerConfig, settings: Mapping[str, Any]
    ) -> None:
        self.module = module
        self.engine = _initialize(module, config, settings)

    def forward(self, *inputs: Any) -> Tensor:
        """Through the engine; ZeRO 3 gathers weights module by module."""
        output: Tensor = self.engine(*inputs)
        return output

    def begin(self, *, last_of_part: bool, last_of_step: bool) -> None:
        """Where gradients are accumulated to is set by hand: the number of forwards varies."""
        del last_of_part
        self.engine.set_gradient_accumulation_boundary(is_boundary=last_of_step)

    def backward(self, loss: Tensor) -> None:
        """DeepSpeed averages over ranks."""
        self.engine.backward(loss * dist.get_world_size())

    def gradient_norm(self) -> float | None:
        """DeepSpeed keeps gradients in buffers of its own."""
        return None

    def set_gradients_aside(self) -> list[Tensor | None]:
        """Nothing can be taken away: gradients go on adding up."""
        return []

    def add_gradients(self, held: list[Tensor | None]) -> None:
        """They were never taken away."""

    def step(self, lr: float) -> float:
        """The engine clips and steps; a norm that is not finite shows only afterwards."""
        for group in self.engine.optimizer.param_groups:
            group["lr"] = lr
        self.engine.step()
        return check_norm(float(self.engine.get_global_grad_norm()))

    def shards(self) -> dict[str, Tensor]:
        """ZeRO 3: flat pieces, padded to equal length."""
        parameters: dict[str, Any] = dict(self.module.named_parameters())
        if not self._splits_weights:
            return {name: p.detach() for name, p in parameters.items()}
        return {name: p.ds_tensor.detach() for name, p in parameters.items()}

    @property
    def _splits_weights(self) -> bool:
        return bool(self.engine.zero_optimization_partition_weights())

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """The pieces of all ranks, one after another, less the padding."""
        if not self._splits_weights:
            return {name: shard.cpu().clone() for name, shard in shards.items()}
        parameters: dict[str, Any] = dict(self.module.named_parameters())
        return {
            name: _joined(shard, parameters[name].ds_shape).cpu() for name, shard in shards.items()
        }

    def save(self, folder: Path) -> None:
        """DeepSpeed's own checkpoint, a file a rank."""
        self.engine.save_checkpoint(str(folder), tag=TAG)

    def load(self, folder: Path) -> None:
        """With as many ranks as saved it."""
        loaded, _ = self.engine.load_checkpoint(str(folder), tag=TAG)
        assert loaded is not None, f"no DeepSpeed checkpoint in {folder}"

    def save_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """A file a rank, whole weights or not."""
        write_state(dict(shards), folder / rank_file())

    def load_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """Of this rank."""
        copy_into(shards, read_state(folder / rank_file()))


def _initialize(module: nn.Module, config: OptimizerConfig, settings: Mapping[str, Any]) -> Any:
    try:
        import deepspeed
    except ImportError as error:
        raise UserError(
            "the backend deepspeed needs DeepSpeed",
            got="it is not installed",
            do="pip install -e '.[deepspeed]', or choose placement.backend=fsdp2",
        ) from error
    # Else every CPU process compiles C++ at its first use, and one that is killed meanwhile leaves
    # a lock behind for which all later ones wait.
    deepspeed.ops.__compatible_ops__["deepspeed_shm_comm"] = False
    engine, _, _, _ = deepspeed.initialize(
        model=module,
        optimizer=make_optimizer(module, config),
        config={
            **settings,
            "train_micro_batch_size_per_gpu": 1,  # ours vary; only their sum would be used
            "gradient_accumulation_steps": 1,
            "gradient_clipping": config.max_grad_norm,
        },
    )
    return engine


def _joined(shard: Tensor, shape: torch.Size) -> Tensor:
    pieces = [torch.empty_like(shard) for _ in range(dist.get_world_size())]
    dist.all_gather(pieces, shard.contiguous())
    return torch.cat(pieces)[: shape.numel()].view(shape)
