"""Whether models are trained whole or by adapters on a frozen base. No torch here."""

from dataclasses import dataclass, field
from enum import StrEnum

from stages.contracts import UserError, check_positive, check_share
from stages.lm.backends.config import BackendKind

ALL_LINEAR = "all-linear"  # PEFT's word: every linear layer but the output's


class PeftKind(StrEnum):
    """none: all weights are trained. lora: low-rank adapters (Hu et al. 2021)."""

    none = "none"
    lora = "lora"


@dataclass(kw_only=True)
class PeftConfig:
    """The adapters that SFT and `ppo_init` make; every later stage trains a copy of theirs.

    A layer W with an adapter gives W x + alpha / rank * B A x; B starts at zero. dropout: on x
    before A, in SFT and `ppo_init` alone. target_modules: the layers, as PEFT names them.
    """

    kind: PeftKind = PeftKind.none
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha")
        check_share(self, "dropout")
        if not self.target_modules:
            raise UserError(
                "target_modules names no layer",
                got="an empty list",
                do=f"[{ALL_LINEAR}], or some layers: [q_proj, v_proj]",
            )


def check_adapter_backend(
    kind: PeftKind,
    role: str,
    backend: BackendKind | None,
    why: str = "ZeRO and FSDP would split a base that other models read",
) -> None:
    """Refuse backends that split weights, and say why."""
    if kind is PeftKind.lora and backend not in (BackendKind.none, BackendKind.ddp):
        raise UserError(
            f"adapters of the {role} cannot be trained with {backend}",
            got=f"peft=lora, the backend of the {role}: {backend}",
            do=f"placement.backend=ddp and deepspeed=none: {why}",
        )
