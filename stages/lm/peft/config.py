"""How a model is trained: whole, in part, or by adapters on a frozen base. No torch here."""

from dataclasses import MISSING, dataclass, field, fields
from enum import StrEnum
from importlib.util import find_spec

from stages.contracts import UserError, check_positive, check_share
from stages.lm.backends.config import BackendKind
from stages.lm.engines.config import EngineKind

ALL_LINEAR = "all-linear"  # PEFT's word: every linear layer but the output's


class PeftKind(StrEnum):
    """Which weights learn.

    none: all. bitfit: biases alone (Ben Zaken et al. 2021). lora: low-rank adapters (Hu et al.
    2021). qlora: the same on a base in 4 bits (Dettmers et al. 2023). dora: with the norms of the
    weights beside (Liu et al. 2024). adalora: ranks shared out among the layers (Zhang et al.
    2023). ia3: factors on activations (Liu et al. 2022). Virtual tokens before the text: prefix,
    keys and values of every layer out of an MLP (Li and Liang 2021); p_tuning, the same without
    one, which is P-Tuning v2 (Liu et al. 2021); prompt, embeddings (Lester et al. 2021).
    """

    none = "none"
    bitfit = "bitfit"
    lora = "lora"
    qlora = "qlora"
    dora = "dora"
    adalora = "adalora"
    ia3 = "ia3"
    prefix = "prefix"
    p_tuning = "p_tuning"
    prompt = "prompt"

    @property
    def has_adapter(self) -> bool:
        """Whether new weights beside a frozen base learn; else some of the model's own."""
        return self not in (PeftKind.none, PeftKind.bitfit)

    @property
    def adds_tokens(self) -> bool:
        """Whether these stand before the text, as virtual tokens: then they cannot be merged."""
        return self in (PeftKind.prefix, PeftKind.p_tuning, PeftKind.prompt)

    @property
    def merges(self) -> bool:
        """Whether base and adapter add up to a plain model."""
        return self.has_adapter and not self.adds_tokens

    @property
    def is_low_rank(self) -> bool:
        """LoRA and its relatives."""
        return self.merges and self is not PeftKind.ia3

    @property
    def settings(self) -> tuple[str, ...]:
        """The fields of `PeftConfig` that it reads."""
        if self.is_low_rank:
            return ("rank", "alpha", "dropout", "target_modules")
        virtual = ("num_virtual_tokens",) if self.adds_tokens else ()
        mlp = ("encoder_hidden_size",) if self is PeftKind.prefix else ()
        layers = ("target_modules",) if self is PeftKind.ia3 else ()
        return (*virtual, *mlp, *layers)


@dataclass(kw_only=True)
class PeftConfig:
    """The adapters that SFT and `ppo_init` make; every later stage trains a copy of theirs.

    rank, alpha: a layer W with LoRA gives W x + alpha / rank * B A x; B starts at zero. adalora:
    the mean rank that is left in the end; it starts at half as much again. dropout: on x before A,
    in SFT and `ppo_init` alone. target_modules: the layers, as PEFT names them; all-linear is with
    ia3 what PEFT takes for this family. num_virtual_tokens: they use up the model's positions.
    encoder_hidden_size: of prefix's MLP.
    """

    kind: PeftKind = PeftKind.none
    rank: int = 16
    alpha: float = 32.0
    dropout: float = 0.0
    target_modules: list[str] = field(default_factory=lambda: [ALL_LINEAR])
    num_virtual_tokens: int = 20
    encoder_hidden_size: int = 512

    def __post_init__(self) -> None:
        check_positive(self, "rank", "alpha", "num_virtual_tokens", "encoder_hidden_size")
        check_share(self, "dropout")
        if not self.target_modules:
            raise UserError(
                "target_modules names no layer",
                got="an empty list",
                do=f"[{ALL_LINEAR}], or some layers: [q_proj, v_proj]",
            )
        self._check_read()

    @property
    def positions_taken(self) -> int:
        """Positions of the model that virtual tokens stand at."""
        return self.num_virtual_tokens if self.kind.adds_tokens else 0

    def _check_read(self) -> None:
        """Refuse values that this kind would ignore."""
        for spec in fields(self):
            factory = spec.default_factory
            default = spec.default if factory is MISSING else factory()
            value = getattr(self, spec.name)
            if spec.name not in ("kind", *self.kind.settings) and value != default:
                reads = ", ".join(self.kind.settings) or "nothing else"
                raise UserError(
                    f"peft.{spec.name} has no effect with peft={self.kind}",
                    got=f"{spec.name}={value}; {self.kind} reads {reads}",
                    do="leave it out",
                )


def check_adapter_backend(
    kind: PeftKind,
    role: str,
    backend: BackendKind | None,
    why: str = "ZeRO and FSDP would split a base that other models read",
) -> None:
    """Refuse backends that split weights, and say why."""
    if kind is not PeftKind.none and backend not in (BackendKind.none, BackendKind.ddp):
        raise UserError(
            f"adapters of the {role} cannot be trained with {backend}"
            if kind.has_adapter
            else f"biases of the {role} alone cannot be trained with {backend}: not tested",
            got=f"peft={kind}, the backend of the {role}: {backend}",
            do="placement.backend=ddp and deepspeed=none" + (f": {why}" * kind.has_adapter),
        )


def check_adapter_engine(kind: PeftKind, engine: EngineKind) -> None:
    """Refuse rollouts that would leave the adapter out."""
    if kind.adds_tokens and engine is EngineKind.vllm:
        raise UserError(
            "vLLM knows no virtual tokens",
            got=f"peft={kind}, rollout=vllm",
            do="take rollout=hf, or peft=lora",
        )


def check_library(kind: PeftKind) -> None:
    """Refuse QLoRA where the library that rounds its base is not installed."""
    if kind is PeftKind.qlora and find_spec("bitsandbytes") is None:
        raise UserError(
            "peft=qlora needs bitsandbytes",
            got="an environment without it",
            do="pip install 'rlhf-pipeline[quantise]', or take peft=lora",
        )
