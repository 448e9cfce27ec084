"""Where a model is trained: how many processes, what each gets, what keeps them in step.

No torch here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from stages.contracts import (
    GroupShape,
    UserError,
    check_not_negative,
    check_positive,
    no_effect,
)
from stages.lm.backends.config import BackendKind

SHARDED_WEIGHTS = 3  # the stage of ZeRO from which a process holds no whole weights


@dataclass(kw_only=True)
class TrainingPlacement:
    """The processes that train one model.

    cpus, gpus: of each. backend: null is `deepspeed` where there are settings for it, else `ddp` on
    more than one process, else `none`. deepspeed: DeepSpeed's own keys. start_s, call_s: deadlines
    of making the processes and of a call.
    """

    processes: int = 1
    cpus: float = no_effect(1.0)
    gpus: float = 0.0
    backend: BackendKind | None = None
    deepspeed: dict[str, Any] = field(default_factory=dict)
    start_s: float = no_effect(600.0)
    call_s: float = no_effect(3600.0)

    def __post_init__(self) -> None:
        check_positive(self, "processes", "start_s", "call_s")
        check_not_negative(self, "cpus", "gpus")
        check_deepspeed(self.deepspeed)
        if self.processes > 1 and self.backend is BackendKind.none:
            raise UserError(
                "backend=none trains on one process",
                got=f"processes={self.processes}",
                do="placement.backend=ddp or fsdp2, deepspeed=zero2, or placement.processes=1",
            )

    @property
    def kind(self) -> BackendKind:
        """The backend, never null."""
        return backend_of(self.backend, self.deepspeed, self.processes)

    @property
    def splits_weights(self) -> bool:
        """Whether no process holds the whole model."""
        return splits_weights(self.kind, self.deepspeed)

    def groups(self, name: str) -> list[GroupShape]:
        """The worker group of that name; none where the stage's own process does."""
        if self.processes == 1 and self.gpus == 0 and self.kind is BackendKind.none:
            return []
        return [
            GroupShape(
                name=name,
                processes=self.processes,
                cpus=self.cpus,
                gpus=self.gpus,
                start_s=self.start_s,
                call_s=self.call_s,
            )
        ]


def backend_of(
    asked: BackendKind | None, deepspeed: Mapping[str, Any], processes: int
) -> BackendKind:
    """What was asked for, else what follows from DeepSpeed's settings and the processes."""
    if asked is not None:
        return asked
    if deepspeed:
        return BackendKind.deepspeed
    return BackendKind.ddp if processes > 1 else BackendKind.none


def splits_weights(backend: BackendKind, deepspeed: Mapping[str, Any]) -> bool:
    """Whether the backend leaves no process with the whole weights."""
    if backend is BackendKind.deepspeed:
        return zero_stage(deepspeed) >= SHARDED_WEIGHTS
    return backend is BackendKind.fsdp2


def zero_stage(deepspeed: Mapping[str, Any]) -> int:
    """The stage of ZeRO in DeepSpeed's settings."""
    return int(deepspeed.get("zero_optimization", {}).get("stage", 0))


def check_deepspeed(settings: Mapping[str, Any]) -> None:
    """Refuse settings without a stage of ZeRO, or with weights that are not float32."""
    if not settings:
        return
    if zero_stage(settings) not in (1, 2, 3):
        raise UserError(
            "placement.deepspeed has no stage of ZeRO",
            got=f"zero_optimization.stage={zero_stage(settings)}",
            do="deepspeed=zero1, zero2 or zero3; without ZeRO, placement.backend=ddp",
        )
    for dtype in ("fp16", "bf16"):
        if settings.get(dtype, {}).get("enabled", False):
            raise UserError(
                f"placement.deepspeed.{dtype} would keep weights that the average cannot follow",
                got=f"{dtype}.enabled=true",
                do="leave it out: weights and sums stay in float32",
            )
