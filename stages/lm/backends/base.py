"""What a role asks of the backend that holds its model; the single process is the plainest one.

Gradients are SUMMED over ranks, and every loss is divided by what the whole minibatch holds: so a
loss has the same gradient on one process and on many. Libraries that average over ranks are given
the loss times their number.

Every rank calls the same methods in the same order, its forwards included: a sharded model gathers
weights in each of them.
"""

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Protocol

import torch
from torch import Tensor, nn

from stages.lm.checkpoints import read_state, write_state
from stages.lm.optimisation import NonFiniteError, OptimizerConfig, clip_and_step, make_optimizer


class Backend(Protocol):
    """One model in training, as one rank sees it."""

    def forward(self, *inputs: Any) -> Tensor:
        """The model's output, through whatever wraps it."""

    def begin(self, *, last_of_part: bool, last_of_step: bool) -> None:
        """Called before each forward that is differentiated.

        last_of_part: after its backward the gradient so far is read. last_of_step: a step follows.
        """

    def backward(self, loss: Tensor) -> None:
        """Add this rank's gradient."""

    def gradient_norm(self) -> float | None:
        """L2 norm of the gradient so far, over all ranks; None where a part cannot be read."""

    def set_gradients_aside(self) -> list[Tensor | None]:
        """Take the gradient so far away, to give it back to `add_gradients`."""

    def add_gradients(self, held: list[Tensor | None]) -> None:
        """Add what was set aside."""

    def step(self, lr: float) -> float:
        """Clip, step, clear; the norm before clipping. Raises NonFiniteError."""

    def shards(self) -> dict[str, Tensor]:
        """This rank's part of every trainable weight, by name, as the step left it; read only."""

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Whole tensors, on the CPU, from what has the form of `shards`; called on all ranks."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer; called on all ranks."""

    def save_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """Write what has the form of `shards`; called on all ranks."""

    def load_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """Fill `shards` in place with what `save_shards` wrote with as many ranks."""

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote with as many ranks."""


class SingleProcess:
    """The model in this process alone; other backends of torch build on it."""

    def __init__(self, module: nn.Module, config: OptimizerConfig) -> None:
        self.module, self.config = module, config
        self.optimizer = make_optimizer(module, config)
        device = next(module.parameters()).device.type
        self.scaler = torch.amp.GradScaler(device, enabled=config.scales_loss)

    def forward(self, *inputs: Any) -> Tensor:
        """The module's own forward."""
        output: Tensor = self.module(*inputs)
        return output

    def begin(self, *, last_of_part: bool, last_of_step: bool) -> None:
        """Nothing to prepare."""

    def backward(self, loss: Tensor) -> None:
        """Accumulate into `.grad`, scaled where the loss is."""
        self.scaler.scale(loss).backward()  # type: ignore[no-untyped-call]  # torch's own

    def gradient_norm(self) -> float | None:
        """Of what lies in `.grad`."""
        return float(nn.utils.get_total_norm(self._gradients())) / self.scaler.get_scale()

    def _gradients(self) -> list[Tensor]:
        return [p.grad for p in self.module.parameters() if p.grad is not None]

    def set_gradients_aside(self) -> list[Tensor | None]:
        """The `.grad` of every trainable parameter, now None."""
        held = [p.grad for p in self._trainable()]
        self.optimizer.zero_grad(set_to_none=True)
        return held

    def add_gradients(self, held: list[Tensor | None]) -> None:
        """In place."""
        for parameter, gradient in zip(self._trainable(), held, strict=True):
            if parameter.grad is not None and gradient is not None:
                parameter.grad.add_(gradient)

    def _trainable(self) -> list[nn.Parameter]:
        return [p for p in self.module.parameters() if p.requires_grad]

    def step(self, lr: float) -> float:
        """AdamW at this rate; with a scaled loss no step where the scale was too large."""
        return clip_and_step(
            self.optimizer, self.module.parameters(), lr, self.config.max_grad_norm, self.scaler
        )

    def shards(self) -> dict[str, Tensor]:
        """The weights themselves, of which frozen ones need no keeping."""
        return {name: p.detach() for name, p in self.module.named_parameters() if p.requires_grad}

    def gather(self, shards: Mapping[str, Tensor]) -> dict[str, Tensor]:
        """Copies."""
        return {name: shard.cpu().clone() for name, shard in shards.items()}

    def save(self, folder: Path) -> None:
        """One file of weights, one of the optimizer."""
        self.save_shards(self.shards(), folder / "weights")
        write_state(self.optimizer.state_dict(), folder / "optimizer.pt")
        if self.scaler.is_enabled():
            write_state(self.scaler.state_dict(), folder / "scaler.pt")

    def load(self, folder: Path) -> None:
        """Weights in place, then the optimizer."""
        self.load_shards(self.shards(), folder / "weights")
        self.optimizer.load_state_dict(read_state(folder / "optimizer.pt"))
        if self.scaler.is_enabled():
            self.scaler.load_state_dict(read_state(folder / "scaler.pt"))

    def save_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """One file."""
        write_state(dict(shards), folder / "whole.pt")

    def load_shards(self, shards: Mapping[str, Tensor], folder: Path) -> None:
        """Copy in place."""
        copy_into(shards, read_state(folder / "whole.pt"))


def check_norm(norm: float) -> float:
    """The norm of a gradient. Raises NonFiniteError."""
    if not math.isfinite(norm):
        raise NonFiniteError(f"the gradient norm is {norm}")
    return norm


@torch.no_grad()
def copy_into(shards: Mapping[str, Tensor], saved: Mapping[str, Tensor]) -> None:
    """Fill tensors from others of the same names."""
    for name, shard in shards.items():
        shard.copy_(saved[name])


@torch.no_grad()
def copy_weights(weights: Mapping[str, Tensor], module: nn.Module) -> None:
    """Give the module these weights, by the names of its trainable parameters."""
    for name, parameter in module.named_parameters():
        if parameter.requires_grad:
            parameter.copy_(weights[name])
