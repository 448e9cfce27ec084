"""Settings of SFT and of the PPO initialisation model; defaults are the paper's (App. C.1, C.3)."""

from dataclasses import dataclass, field
from enum import StrEnum

from stages.contracts import (
    StageConfig,
    UserError,
    check_divides,
    check_not_negative,
    check_positive,
    check_share,
    no_effect,
)
from stages.lm.adamw import AdamWConfig
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.precision import Precision


class LossOn(StrEnum):
    """Which tokens of a demonstration carry loss.

    completion: the response. assistant: the assistant's earlier turns in the prompt too. all: every
    token.
    """

    completion = "completion"
    assistant = "assistant"
    all = "all"


class Packing(StrEnum):
    """Whether demonstrations share rows of `max_length` tokens, in TRL's words.

    bfd: best fit decreasing, each one whole. wrapped: one after another, cut where a row is full.
    """

    none = "none"
    bfd = "bfd"
    wrapped = "wrapped"


@dataclass(kw_only=True)
class FineTuningConfig(AdamWConfig, StageConfig):
    """What the two fine-tunings on demonstrations have in common.

    lr: peak rate; cosine to `final_lr_fraction` of it, after `warmup_steps`. batch_size: sequences
    an optimizer step; microbatch_size: sequences a forward. max_length: prompt and response, in
    tokens; longer demonstrations are left out. With `packing` a sequence is a row of max_length
    tokens. loss_on: the paper does not say. neftune_alpha: noise on the embeddings of a sequence of
    L tokens of size H, uniform in +-alpha / sqrt(L H) (Jain et al. 2023), in training alone; 0 for
    none. gradient_checkpointing: activations are computed again in the backward, the same
    gradients for less memory. liger: Triton kernels of the package `liger-kernel`, on a GPU.
    checkpoint_every, log_every: in optimizer steps.
    """

    lr: float
    epochs: int
    batch_size: int = 32
    microbatch_size: int = 32
    final_lr_fraction: float = 0.1
    warmup_steps: int = 0
    eps: float = 1e-8
    max_length: int = 2048
    residual_dropout: float = 0.2
    loss_on: LossOn = LossOn.completion
    packing: Packing = Packing.none
    precision: Precision = Precision.fp32  # the group `precision`
    neftune_alpha: float = 0.0
    gradient_checkpointing: bool = False
    liger: bool = False
    peft: PeftConfig = field(default_factory=PeftConfig)  # the group `peft`
    group_by_length: bool = True
    checkpoint_every: int = no_effect(500)
    log_every: int = no_effect(10)

    def __post_init__(self) -> None:
        check_fine_tuning(self)


class Select(StrEnum):
    """What chooses among the epochs of SFT.

    validation_loss: the lowest. reward_model: the paper's rule, the highest reward-model score on
    validation prompts; its choice is the asset `sft_selected`.
    """

    validation_loss = "validation_loss"
    reward_model = "reward_model"


@dataclass(kw_only=True)
class SftConfig(FineTuningConfig):
    """SFT on demonstrations; every epoch is kept. Rate and epochs of the 1.3B model.

    select: changes nothing in sft itself, which the reward model begins as; with `reward_model`
    there is an asset `sft_selected` beside it.
    """

    lr: float = 9.65e-6
    epochs: int = 16
    select: Select = field(default=Select.validation_loss, metadata={"affects_result": False})


@dataclass(kw_only=True)
class SftSelectedConfig(StageConfig):
    """The choice among SFT's epochs by reward-model score (App. C.1).

    select: that of sft, which decides whether the stage is there at all. num_prompts: validation
    prompts that every epoch answers once. peft: whether the epochs are adapters.
    """

    select: Select = Select.validation_loss
    num_prompts: int = 512
    temperature: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 1024
    sequences_per_batch: int = 256
    peft: PeftKind = PeftKind.none
    precision: Precision = Precision.fp32

    def __post_init__(self) -> None:
        positive = ("num_prompts", "temperature", "max_prompt_tokens", "max_response_tokens")
        check_positive(self, *positive, "sequences_per_batch")


@dataclass(kw_only=True)
class PpoInitConfig(FineTuningConfig):
    """The start of PPO and its KL reference: two epochs with pretraining text mixed in.

    text_share: share of pretraining documents among the training sequences (0.1: one in ten).
    """

    lr: float = 5e-6
    epochs: int = 2
    text_share: float = 0.1

    def __post_init__(self) -> None:
        super().__post_init__()
        if not 0 <= self.text_share < 1:
            raise UserError(
                "text_share must lie in [0, 1)", got=str(self.text_share), do="the paper: 0.1"
            )


def check_fine_tuning(config: FineTuningConfig) -> None:
    """Refuse values no fine-tuning can run with; the error names the key."""
    positive = (
        "lr",
        "epochs",
        "batch_size",
        "microbatch_size",
        "max_length",
        "checkpoint_every",
        "log_every",
    )
    config.check_adamw()
    check_positive(config, *positive)
    check_not_negative(config, "neftune_alpha")
    check_share(config, "residual_dropout", "final_lr_fraction")
    check_divides(config, "microbatch_size", "batch_size")
    _check_virtual_tokens(config)


def _check_virtual_tokens(config: FineTuningConfig) -> None:
    """Refuse what would hide them, or have no effect beside them."""
    asked = {
        f"packing={config.packing}": config.packing is not Packing.none,
        "gradient_checkpointing=true": config.gradient_checkpointing,
    }
    for setting in (setting for setting, on in asked.items() if on):
        if config.peft.kind.adds_tokens:
            raise UserError(
                "virtual tokens stand before one text, in a cache that every layer keeps",
                got=f"peft={config.peft.kind}, {setting}",
                do=f"leave {setting} out, or take peft=lora",
            )
