"""Who makes the steps of the supervised loop: this process, or all ranks of a worker group alike.

A stage says what is learnt (`Objective`); the backend says how the module that learns it is spread
over processes. The gradient of a step is the sum over its pieces and over the ranks.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

from torch import Tensor

from stages.contracts import WorkerGroup
from stages.lm.backends.base import Backend
from stages.lm.checkpoints import disk_errors
from stages.lm.dealing import added_up, with_last
from stages.lm.optimisation import NonFiniteError

Figures = Mapping[str, float]
Forward = Callable[..., Tensor]
Piece = TypeVar("Piece")


class Objective(Protocol[Piece]):
    """What is learnt, as one rank sees it."""

    def pieces(self, step: int) -> Sequence[Piece]:
        """This rank's micro-batches of a step; as many on every rank."""

    def loss(self, forward: Forward, piece: Piece) -> tuple[Tensor, Figures]:
        """A piece's share of the step's loss and figures: all pieces of all ranks add up to it."""


class Learner(Protocol):
    """A model in training, wherever it is."""

    def train(self, step: int, lr: float) -> dict[str, float]:
        """One optimizer step at this rate; its figures. Raises NonFiniteError."""

    def weights(self) -> dict[str, Tensor]:
        """A copy of the trained weights, whole, on the CPU."""

    def save(self, folder: Path) -> None:
        """Write weights and optimizer."""

    def load(self, folder: Path) -> None:
        """Continue from what `save` wrote."""


class RankLearner(Generic[Piece]):
    """One rank, or the only process."""

    def __init__(self, objective: Objective[Piece], backend: Backend) -> None:
        self.objective, self.backend = objective, backend

    def train(self, step: int, lr: float) -> dict[str, float]:
        """Accumulate the gradients of this rank's pieces, then step."""
        totals = {"loss/train": 0.0}
        for piece, last in with_last(self.objective.pieces(step)):
            self.backend.begin(last_of_part=last, last_of_step=last)
            loss, figures = self.objective.loss(self.backend.forward, piece)
            value = float(loss.detach())
            if not math.isfinite(value):
                raise NonFiniteError(f"the loss of step {step + 1} is {value}")
            self.backend.backward(loss)
            for name, share in {"loss/train": value, **figures}.items():
                totals[name] = totals.get(name, 0.0) + share
        return {**totals, "grad_norm": self.backend.step(lr)}

    def weights(self) -> dict[str, Tensor]:
        """Called on all ranks."""
        return self.backend.gather(self.backend.shards())

    def save(self, folder: Path) -> None:
        """Called on all ranks."""
        with disk_errors(folder):
            self.backend.save(folder)

    def load(self, folder: Path) -> None:
        """Called on all ranks."""
        self.backend.load(folder)


class LearnerGroup:
    """A `RankLearner` on every rank of a worker group, under the name `part`."""

    def __init__(self, workers: WorkerGroup, part: str) -> None:
        self.workers, self.part = workers, part

    def train(self, step: int, lr: float) -> dict[str, float]:
        """The figures of all ranks together."""
        return added_up(self._on_all("train", step, lr))

    def weights(self) -> dict[str, Tensor]:
        """Sent by the first rank."""
        weights: dict[str, Tensor] = self.workers.call_for_first(self.part, "weights")
        return weights

    def save(self, folder: Path) -> None:
        """All ranks into one folder."""
        self._on_all("save", folder)

    def load(self, folder: Path) -> None:
        """On as many ranks as saved it."""
        self._on_all("load", folder)

    def _on_all(self, method: str, *arguments: Any) -> list[Any]:
        given = [arguments] * self.workers.shape.processes
        return self.workers.call(self.part, method, given)
