"""Settings of the policy stages: DPO and best-of-n. No torch here."""

from dataclasses import dataclass
from enum import StrEnum

from stages.contracts import (
    GoldKind,
    StageConfig,
    UserError,
    check_divides,
    check_positive,
    no_effect,
)
from stages.lm.adamw import check_eight_bits
from stages.lm.peft.config import PeftKind
from stages.lm.precision import Precision


class PairRule(StrEnum):
    """Which ordered pairs of a K-way comparison DPO trains on; ties never make a pair."""

    all = "all"
    best_worst = "best_worst"
    adjacent = "adjacent"


class Optimizer(StrEnum):
    """The DPO paper's RMSprop, or Adam with decoupled weight decay, its moments in 8 bits or 32."""

    rmsprop = "rmsprop"
    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


@dataclass(kw_only=True)
class DpoConfig(StageConfig):
    """DPO; defaults are the paper's (Rafailov et al. 2023, App. B, and its repository).

    beta: strength of the implicit KL penalty. label_smoothing: the share of labels taken as flipped
    (conservative DPO). max_pairs: of one comparison, drawn at random; None for all. batch_size:
    pairs an optimizer step. lr: constant after a linear warm-up; with `final_lr_fraction` below 1 a
    cosine. max_length: prompt and response, in tokens; pairs with a longer completion are left out.
    """

    beta: float = 0.1
    label_smoothing: float = 0.0
    pairs: PairRule = PairRule.all
    max_pairs: int | None = None
    lr: float = 1e-6
    epochs: int = 1
    batch_size: int = 64
    microbatch_size: int = 64
    optimizer: Optimizer = Optimizer.rmsprop
    warmup_steps: int = 150
    final_lr_fraction: float = 1.0
    max_grad_norm: float = 10.0
    max_length: int = 512
    group_by_length: bool = True
    peft: PeftKind = PeftKind.none  # but none, bitfit: a copy of SFT's adapter is trained
    precision: Precision = Precision.fp32  # the group `precision`
    gradient_checkpointing: bool = False  # activations are computed again in the backward
    checkpoint_every: int = no_effect(500)
    log_every: int = no_effect(10)

    def __post_init__(self) -> None:
        check_positive(
            self,
            "beta",
            "lr",
            "epochs",
            "batch_size",
            "microbatch_size",
            "max_grad_norm",
            "max_length",
            "checkpoint_every",
            "log_every",
        )
        check_eight_bits(self.optimizer)
        if self.max_pairs is not None:
            check_positive(self, "max_pairs")
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(
                "label_smoothing must lie in [0, 0.5)",
                got=str(self.label_smoothing),
                do="0 for plain DPO, 0.1 for labels wrong one time in ten",
            )
        check_divides(self, "microbatch_size", "batch_size")


@dataclass(kw_only=True)
class BestOfNConfig(StageConfig):
    """Best-of-n: sample n responses, keep the one the reward model scores highest.

    n: what the policy asset stands for. curve_prompts, curve_samples: validation prompts, and
    responses a prompt, from which the curve of reward along n is estimated (curve_samples >= n).
    gold: what is measured beside the proxy. max_prompt_tokens: longer ones are left out.
    max_response_tokens: where a response is cut.
    sequences_per_batch: responses sampled at once.
    """

    n: int = 16
    curve_prompts: int = 128
    curve_samples: int = 64
    temperature: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 1024
    gold: GoldKind = GoldKind.world
    sequences_per_batch: int = no_effect(256)

    def __post_init__(self) -> None:
        check_positive(
            self,
            "n",
            "curve_prompts",
            "temperature",
            "max_prompt_tokens",
            "max_response_tokens",
            "sequences_per_batch",
        )
        if self.curve_samples < self.n:
            raise UserError(
                "curve_samples must be at least n",
                got=f"{self.curve_samples} < {self.n}",
                do="the estimate at n needs n or more samples a prompt",
            )
