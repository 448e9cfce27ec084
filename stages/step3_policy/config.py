"""Settings of the policies that learn from comparisons: DPO, its relatives, KTO. No torch here."""

from dataclasses import dataclass
from enum import StrEnum

from stages.contracts import (
    StageConfig,
    UserError,
    check_divides,
    check_not_negative,
    check_positive,
    no_effect,
)
from stages.lm.adamw import check_eight_bits
from stages.lm.peft.config import PeftKind
from stages.lm.precision import Precision


class PairRule(StrEnum):
    """Which ordered pairs of a K-way comparison are trained on; ties never make a pair."""

    all = "all"
    best_worst = "best_worst"
    adjacent = "adjacent"


class Optimizer(StrEnum):
    """The DPO paper's RMSprop, or Adam with decoupled weight decay, its moments in 8 bits or 32."""

    rmsprop = "rmsprop"
    adamw = "adamw"
    adamw_8bit = "adamw_8bit"


class PairLoss(StrEnum):
    """What a pair costs; the formulas are in `stages.step3_policy.losses`."""

    sigmoid = "sigmoid"
    robust = "robust"
    hinge = "hinge"
    ipo = "ipo"
    simpo = "simpo"
    orpo = "orpo"

    @property
    def has_reference(self) -> bool:
        """Whether it measures the policy against a reference."""
        return self not in (PairLoss.simpo, PairLoss.orpo)


class PolicyStart(StrEnum):
    """The asset whose weights the policy begins with."""

    sft = "sft"
    base = "base"


class Reference(StrEnum):
    """What later rounds of online DPO hold the policy to: where all began, or where they begin."""

    first = "first"
    previous = "previous"


@dataclass(kw_only=True)
class PreferenceConfig(StageConfig):
    """Training on comparisons; defaults are the DPO paper's (Rafailov et al. 2023, App. B).

    beta: strength of the implicit KL penalty. max_pairs: of one comparison, drawn at random; None
    for all. batch_size: of pairs, or of KTO's examples, an optimizer step. lr: constant after a
    linear warm-up; with `final_lr_fraction` below 1 a cosine. max_length: prompt and response, in
    tokens; pairs with a longer completion are left out. reference: alone of interest in rounds.
    """

    beta: float = 0.1
    reference: Reference = Reference.first
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
        check_divides(self, "microbatch_size", "batch_size")


@dataclass(kw_only=True)
class DpoConfig(PreferenceConfig):
    """DPO and the relatives that learn from pairs.

    beta: of ORPO the weight of the odds ratio (the paper's lambda). label_smoothing: the share of
    labels taken as flipped, by conservative DPO (sigmoid) and robust DPO. gamma: the margin that
    SimPO asks for. per_token: log-ratios divided by their number of tokens, for ipo (TRL's way) and
    sigmoid (length-normalised DPO); simpo and orpo always are. start: the base model, for the
    losses without a reference.
    """

    loss: PairLoss = PairLoss.sigmoid
    label_smoothing: float = 0.0
    gamma: float = 0.0
    per_token: bool = False
    start: PolicyStart = PolicyStart.sft

    def __post_init__(self) -> None:
        super().__post_init__()
        check_not_negative(self, "gamma")
        self._check_smoothing()
        if self.gamma and self.loss is not PairLoss.simpo:
            self._refuse("gamma", "the margin of simpo alone", "leave gamma out")
        if self.per_token and not self._may_be_per_token():
            self._refuse("per_token", "a choice of ipo and of plain sigmoid", "leave per_token out")
        self._check_start()

    def _check_smoothing(self) -> None:
        if not 0 <= self.label_smoothing < 0.5:
            raise UserError(
                "label_smoothing must lie in [0, 0.5)",
                got=str(self.label_smoothing),
                do="0 for plain DPO, 0.1 for labels wrong one time in ten",
            )
        if self.label_smoothing and self.loss not in (PairLoss.sigmoid, PairLoss.robust):
            self._refuse("label_smoothing", "known to sigmoid and robust", "set label_smoothing=0")
        if self.loss is PairLoss.robust and not self.label_smoothing:
            self._refuse("label_smoothing", "what robust corrects for", "set label_smoothing=0.1")

    def _may_be_per_token(self) -> bool:
        plain = self.loss is PairLoss.sigmoid and not self.label_smoothing
        return plain or self.loss is PairLoss.ipo

    def _check_start(self) -> None:
        if self.start is PolicyStart.sft:
            return
        if self.loss.has_reference:
            self._refuse("start", "sft where the loss has a reference", "set start=sft")
        if self.peft is not PeftKind.none:
            raise UserError(
                "start=base trains all weights: there is no adapter yet of which to train a copy",
                got=f"peft={self.peft}",
                do="set start=sft, or peft=none",
            )

    def _refuse(self, key: str, what: str, do: str) -> None:
        raise UserError(
            f"{key} is {what}", got=f"loss={self.loss}, {key}={getattr(self, key)}", do=do
        )


@dataclass(kw_only=True)
class KtoConfig(PreferenceConfig):
    """KTO (Ethayarajh et al. 2024): the better of each pair is desirable, the worse undesirable.

    A completion counts once for every pair it stands in. desirable_weight, undesirable_weight: the
    paper's lambda_D and lambda_U. The reference point z0 is estimated on each micro-batch.
    """

    pairs: PairRule = PairRule.best_worst
    desirable_weight: float = 1.0
    undesirable_weight: float = 1.0

    def __post_init__(self) -> None:
        super().__post_init__()
        check_positive(self, "desirable_weight", "undesirable_weight")
        if self.microbatch_size < 2:
            raise UserError(
                "microbatch_size must be at least 2: z0 needs a completion of another prompt",
                got=str(self.microbatch_size),
                do="set microbatch_size=2 or more",
            )
