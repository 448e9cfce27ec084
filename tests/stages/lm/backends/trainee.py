"""A small model in training on a rank: what the tests of backends build and call."""

from pathlib import Path
from typing import Any

import torch
import yaml
from torch import Tensor, nn
from torch.distributed.tensor import DTensor

from stages.lm.backends.config import BackendKind
from stages.lm.backends.make import make_backend
from stages.lm.optimisation import OptimizerConfig

CONF = Path(__file__).parents[4] / "conf" / "deepspeed"


def settings(option: str) -> dict[str, Any]:
    """DeepSpeed's settings as a run gets them."""
    return yaml.safe_load((CONF / f"{option}.yaml").read_text())


KINDS: dict[str, tuple[BackendKind, dict[str, Any]]] = {
    "none": (BackendKind.none, {}),
    "ddp": (BackendKind.ddp, {}),
    "fsdp2": (BackendKind.fsdp2, {}),
    **{
        option: (BackendKind.deepspeed, settings(option))
        for option in ("zero1", "zero2", "zero3", "zero2_offload", "zero3_offload")
    },
}


class Network(nn.Module):
    """Two blocks in a list, as decoders have them."""

    def __init__(self) -> None:
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.layers = nn.ModuleList([nn.Linear(4, 6), nn.Linear(6, 3)])
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator))

    def forward(self, inputs: Tensor) -> Tensor:
        hidden = torch.tanh(self.layers[0](inputs))
        return self.layers[1](hidden)


class Trainee:
    """Sums of squared errors, a gradient of parts, steps."""

    def __init__(self, kind: str) -> None:
        chosen, deepspeed = KINDS[kind]
        optimizer = OptimizerConfig(lr=0.05, weight_decay=0.1, max_grad_norm=0.5)
        self.backend = make_backend(Network(), optimizer, chosen, deepspeed)

    def step(self, parts: list[list[Tensor]], num_rows: int) -> dict[str, Any]:
        """parts: gradients that add up, each a list of micro-batches (b, 7): inputs and targets."""
        norms = []
        for index, part in enumerate(parts):
            held = self.backend.set_gradients_aside()
            for place, rows in enumerate(part):
                last = place == len(part) - 1
                final = last and index == len(parts) - 1
                self.backend.begin(last_of_part=last, last_of_step=final)
                outputs = self.backend.forward(rows[:, :4])
                loss = ((outputs - rows[:, 4:]) ** 2).sum() / num_rows
                self.backend.backward(loss)
            norms.append(self.backend.gradient_norm())
            self.backend.add_gradients(held)
        return {"norms": norms, "norm": self.backend.step(0.05)}

    def outputs(self, rows: Tensor) -> Tensor:
        with torch.no_grad():
            return self.backend.forward(rows[:, :4])

    def weights(self) -> dict[str, Tensor]:
        return self.backend.gather(self.backend.shards())

    def held(self) -> tuple[int, int]:
        """Numbers that this rank keeps of the weights, and of Adam's first moments."""
        backend: Any = self.backend
        zero = hasattr(backend, "engine")
        optimizer = backend.engine.optimizer.optimizer if zero else backend.optimizer
        moments = [state["exp_avg"] for state in optimizer.state.values()]
        return sum(map(size, backend.shards().values())), sum(map(size, moments))

    def save(self, folder: Path) -> None:
        self.backend.save(folder)

    def load(self, folder: Path) -> None:
        self.backend.load(folder)


def size(tensor: Any) -> int:
    """Of the rank's own part."""
    return (tensor.to_local() if isinstance(tensor, DTensor) else tensor).numel()


def build(kind: str) -> dict[str, object]:
    return {"trainee": Trainee(kind)}
