"""Settings of completions, comparisons and reward model; defaults: the paper's. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from reward.config import Encoding
from reward.labelers import LabelerConfig
from stages.contracts import (
    GroupShape,
    StageConfig,
    UserError,
    check_not_negative,
    check_positive,
    check_share,
    nearest_divisor,
    no_effect,
)
from stages.lm.adamw import AdamWConfig
from stages.lm.early_stopping import EarlyStopping
from stages.lm.peft.config import PeftKind, check_adapter_backend
from stages.lm.placement import TrainingPlacement
from stages.lm.precision import Precision


class Denominator(StrEnum):
    """What divides the summed pair losses of a prompt: its untied pairs, or all C(K,2) of them."""

    surviving = "surviving"
    all = "all"


class Loss(StrEnum):
    """What a ranking asks of the scores (`reward/ranking.py`)."""

    pairwise = "pairwise"
    plackett_luce = "plackett_luce"
    best_of_k = "best_of_k"


class Start(StrEnum):
    """Which model becomes the reward model; App. C.2: both give similar results."""

    sft = "sft"
    base = "base"


class OnTooLong(StrEnum):
    """What becomes of a comparison with a sequence above max_length."""

    error = "error"
    skip = "skip"


@dataclass(kw_only=True)
class CompletionsConfig(StageConfig):
    """K responses a prompt from the SFT policy, K uniform in k_min..k_max (§3.5: 4 to 9).

    train_prompts, validation_prompts: how many prompts of each split, or all where it has fewer
    (Table 6). max_prompt_tokens: longer ones are left out. max_response_tokens: where a response is
    cut; 1k in the paper, both. sequences_per_batch: responses sampled at once. first_prompt: of the
    training prompts, counted from 0 and round to the start; source: who answers, in the tables.
    """

    k_min: int = 4
    k_max: int = 9
    first_prompt: int = 0
    source: str = "sft"
    train_prompts: int = 33_207
    validation_prompts: int = 17_887
    temperature: float = 1.0
    max_prompt_tokens: int = 1024
    max_response_tokens: int = 1024
    sequences_per_batch: int = 256
    precision: Precision = Precision.fp32  # the group `precision`

    def __post_init__(self) -> None:
        if self.k_min < 2:
            raise UserError(
                "k_min must be at least 2", got=str(self.k_min), do="a comparison needs two or more"
            )
        if self.k_max < self.k_min:
            raise UserError(
                "k_max must not be below k_min",
                got=f"k_min={self.k_min}, k_max={self.k_max}",
                do="the paper draws K from 4 to 9",
            )
        check_positive(
            self,
            "train_prompts",
            "validation_prompts",
            "temperature",
            "max_prompt_tokens",
            "max_response_tokens",
            "sequences_per_batch",
        )
        check_not_negative(self, "first_prompt")


@dataclass(kw_only=True)
class RankingConfig(StageConfig):
    """A reward model in the labelers' place: the higher score is the better rank, equals tie."""


@dataclass(kw_only=True)
class ComparisonsConfig(StageConfig):
    """Who ranks the completions.

    agreement_prompts: how many training prompts two labelers, two of one group and two of different
    groups rank again, to measure agreement; those judgements are not trained on.
    """

    labeler: LabelerConfig = field(default_factory=LabelerConfig)
    agreement_prompts: int = 1500

    def __post_init__(self) -> None:
        check_positive(self, "agreement_prompts")


@dataclass(kw_only=True)
class RewardModelConfig(AdamWConfig, StageConfig):
    """The K-way reward model (§3.5 Eq. 1, App. C.2): one epoch, cosine to a tenth of the rate.

    batch_size: prompts an optimizer step, each with all its pairs. loss: the paper's is `pairwise`.
    denominator: of that; the paper does not say what divides a prompt's losses when it has ties.
    microbatch_tokens: tokens a forward, padding included. encoding: of prompts, once for all their
    responses where a probe of the model finds that exact (`reward/encoding.py`). unit_variance:
    besides shifting the scores, scale them to standard deviation 1 on the validation completions
    (Ziegler et al. 2019); the paper only shifts. held_out_groups: labeler groups that training
    never sees; validation tells both kinds apart (§4.1). peft: lora trains the head and a copy of
    SFT's adapter. validate_every: in steps, for the curves; 0 only at the end. early_stopping: off,
    as in the paper. gradient_checkpointing: activations are computed again in the backward; prompts
    are then encoded once a response, for a cache cannot be written twice.
    """

    start: Start = Start.sft
    lr: float = 9e-6
    final_lr_fraction: float = 0.1
    warmup_steps: int = 0
    epochs: float = 1.0
    batch_size: int = 64
    loss: Loss = Loss.pairwise
    denominator: Denominator = Denominator.surviving
    unit_variance: bool = False
    held_out_groups: list[str] = field(default_factory=list)
    max_length: int = 2048
    on_too_long: OnTooLong = OnTooLong.error
    microbatch_tokens: int = 16_384
    encoding: Encoding = Encoding.auto
    peft: PeftKind = PeftKind.none
    precision: Precision = Precision.fp32  # the group `precision`
    gradient_checkpointing: bool = False
    early_stopping: EarlyStopping = field(default_factory=EarlyStopping)
    placement: TrainingPlacement = field(default_factory=TrainingPlacement)
    validate_every: int = no_effect(0)
    checkpoint_every: int = no_effect(50)
    log_every: int = no_effect(5)

    def __post_init__(self) -> None:
        check_positive(
            self,
            "lr",
            "epochs",
            "batch_size",
            "max_length",
            "microbatch_tokens",
            "checkpoint_every",
            "log_every",
        )
        check_share(self, "final_lr_fraction")
        self.check_adamw()
        if self.loss is not Loss.pairwise and self.denominator is Denominator.all:
            raise UserError(
                "denominator has no effect: it divides the pairs of loss=pairwise",
                got=f"loss={self.loss}, denominator={self.denominator}",
                do="leave it out",
            )
        _check_start(self)
        _check_placement(self)

    def worker_groups(self) -> list[GroupShape]:
        """The processes that train; none where the stage's own does.

        Named after the seed: members of an ensemble train beside each other.
        """
        return self.placement.groups("reward_model/" + str(self.seed))

    def rows(self, num_comparisons: int) -> Sequence[int]:
        """Indices of the training comparisons that it learns from: all."""
        return range(num_comparisons)


def _check_start(config: RewardModelConfig) -> None:
    if config.start is Start.base and config.peft.has_adapter:
        raise UserError(
            "start=base has no adapter that could be trained",
            got=f"start=base, peft={config.peft}",
            do="set start=sft, or peft=none",
        )


def _check_placement(config: RewardModelConfig) -> None:
    why = "adapters under ZeRO and FSDP are not tested"
    check_adapter_backend(config.peft, "reward model", config.placement.kind, why)
    if config.placement.splits_weights and config.encoding is Encoding.shared:
        raise UserError(
            "encoding=shared needs whole weights: a prompt's cache outlives the layers' weights",
            got=f"a backend that splits them: {config.placement.kind}",
            do="leave reward_model.encoding at auto, or take ddp, zero1 or zero2",
        )
    processes = config.placement.processes
    if config.batch_size % processes:
        even = max(1, round(config.batch_size / processes)) * processes
        raise UserError(
            "batch_size must be a multiple of the processes that train the reward model",
            got=f"{config.batch_size} comparison sets over {processes} processes",
            do=f"reward_model.batch_size={even}, or reward_model.placement.processes="
            f"{nearest_divisor(config.batch_size, processes)}",
        )
