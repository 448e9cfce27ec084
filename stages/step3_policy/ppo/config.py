"""Settings of PPO and PPO-ptx; the defaults are InstructGPT's (Ouyang et al. 2022). No torch here.

Where the paper prints no value the comment says whose it is: LMHP (Ziegler et al. 2019), ST
(Stiennon et al. 2020), WG (WebGPT), N+ (Huang et al. 2024).
"""

from dataclasses import dataclass, field
from enum import StrEnum

from reward.config import RewardConfig
from stages.contracts import (
    GoldKind,
    GroupShape,
    StageConfig,
    UserError,
    check_divides,
    check_not_negative,
    check_positive,
    check_share,
    no_effect,
)
from stages.lm.adamw import AdamWConfig
from stages.lm.engines.config import EngineKind, RolloutConfig, sampling_cautions
from stages.lm.peft.config import PeftKind, check_adapter_backend, check_adapter_engine
from stages.lm.precision import Precision
from stages.step3_policy.ppo.placement import TRAINED, PlacementConfig, check_ranks
from stages.step3_policy.ppo.stopping import StopRules

MIN_WHITENING_SEQUENCES = 8


class Advantage(StrEnum):
    """The estimator of advantages; `align/advantage=NAME` sets what else it needs.

    gae: a critic (the paper). rloo, grpo: the samples of a prompt against one another.
    reinforce_pp: the reward still to come against the whole batch.
    """

    gae = "gae"
    rloo = "rloo"
    grpo = "grpo"
    reinforce_pp = "reinforce_pp"

    @property
    def needs_critic(self) -> bool:
        """Without it no critic is loaded, updated or kept."""
        return self is Advantage.gae

    @property
    def compares_samples(self) -> bool:
        """Whether the baseline is what else was sampled for the prompt."""
        return self in (Advantage.rloo, Advantage.grpo)


class KlPlacement(StrEnum):
    """Where the KL penalty stands: k1 in the reward (the paper), or `kl_loss` beside the loss."""

    reward = "reward"
    loss = "loss"


class KlLoss(StrEnum):
    """The KL as a loss: k2 of the whole sequence, or published GRPO's k3 of every token.

    Only k2 has the gradient of the penalty in Eq. 2. k3's is that of the forward KL, from reference
    to policy: a regulariser with another optimum.
    """

    k2 = "k2"
    k3 = "k3"


class KlController(StrEnum):
    """The paper's fixed coefficient, or LMHP's, which steers the KL of a response to a target."""

    fixed = "fixed"
    adaptive = "adaptive"


class MissingEos(StrEnum):
    """What a response without EOS scores: -penalty (LMHP, N+), its score - penalty, its score."""

    replace = "replace"  # type: ignore[assignment]  # hides str.replace, which nobody calls
    subtract = "subtract"
    none = "none"


class EmaUnit(StrEnum):
    """What one decay of the average stands for; the paper does not say."""

    minibatch = "minibatch"
    iteration = "iteration"


class Select(StrEnum):
    """Which weights become the policy: the average, the last, or the best of the validations.

    The best is told by what training did not maximise: a judge (a second reward model, given as
    `given.judge`), or gold. The reward model itself notices divergence, not over-optimisation.
    """

    ema = "ema"
    last = "last"
    proxy_judge = "proxy_judge"
    gold = "gold"

    @property
    def figure(self) -> str | None:
        """The validation figure that the best weights have the highest of; None: none are kept."""
        return {Select.proxy_judge: "validation/judge", Select.gold: "validation/gold"}.get(self)


@dataclass(kw_only=True)
class PpoConfig(AdamWConfig, StageConfig):
    """PPO-ptx (section 3.5, Eq. 2; App. C.4). `ptx_coef=0` is the paper's plain PPO."""

    # Batch arithmetic: 500 iterations of 512 episodes, the paper's 256k.
    iterations: int = 500
    rollout_batch_size: int = 512  # episodes (responses) an iteration
    samples_per_prompt: int = 1  # responses to each prompt, among those episodes
    minibatch_size: int = 64  # sequences an optimizer step
    ppo_epochs: int = 1  # passes over a rollout batch
    microbatch_tokens: int = 16_384  # padded tokens a forward
    sequences_per_batch: int = 512  # responses sampled at once

    # Rollouts
    max_prompt_tokens: int = 1024  # longer prompts are left out
    max_response_tokens: int = 1024
    temperature: float = 1.0  # of sampling, and of every log-prob
    rollout: RolloutConfig = field(default_factory=RolloutConfig)  # engine; the group `rollout`

    # Which processes do the work, and how they share it; the group `placement`
    placement: PlacementConfig = field(default_factory=PlacementConfig)

    # With an adapter, the four models are such on one base (docs/peft.md); the group `peft`
    peft: PeftKind = PeftKind.none

    # Of the decoders of all roles; the group `precision`
    precision: Precision = Precision.fp32
    gradient_checkpointing: bool = False  # of policy and critic

    # Reward: what is maximised, the group `reward`; less the KL penalty
    reward: RewardConfig = field(default_factory=RewardConfig)
    kl_coef: float = 0.02
    kl_placement: KlPlacement = KlPlacement.reward
    kl_loss: KlLoss = KlLoss.k2  # placement=loss only
    kl_controller: KlController = KlController.fixed
    target_kl: float = 6.0  # nats a response; adaptive only (LMHP)
    kl_horizon: int = 10_000  # episodes; adaptive only (LMHP)
    missing_eos: MissingEos = MissingEos.replace
    missing_eos_penalty: float = 1.0
    whiten_rewards: bool = False  # WG, N+

    # Advantages and losses
    advantage: Advantage = Advantage.gae
    gamma: float = 1.0  # gae and reinforce_pp
    gae_lambda: float = 0.95  # gae only (ST, WG)
    group_std: bool = True  # grpo only: published GRPO; false: Dr. GRPO
    whiten_advantages: bool = True  # over the rollout batch (WG)
    clip_range: float = 0.2
    value_clip_range: float | None = 0.2  # null: plain squared error (LMHP, N+)

    # Pretraining gradients, mixed into every optimizer step
    ptx_coef: float = 27.8  # gamma of Eq. 2, on the mean cross-entropy of a token
    ptx_ratio: float = 8.0  # documents an episode
    max_document_tokens: int = 2048  # longer documents are cut

    # Optimisation. The policy's rate is not printed: this is the middle of the 1.3B sweep, and the
    # highest that did not diverge without pretraining gradients (App. E.9).
    policy_lr: float = 8.05e-6
    critic_lr: float = 9e-6
    warmup_iterations: int = 10
    warmup_start: float = 0.1

    # Which weights are kept
    ema_decay: float = 0.992
    ema_unit: EmaUnit = EmaUnit.minibatch
    select: Select = Select.ema

    # Watching
    stop: StopRules = field(default_factory=StopRules)
    gold: GoldKind = GoldKind.none
    validation_every: int = 10  # iterations; always after the last
    validation_prompts: int = 256
    sample_rows: int = 8  # rows of a table of sampled responses
    checkpoint_every: int = no_effect(10)  # iterations

    def __post_init__(self) -> None:
        _check_signs(self)
        _check_shares(self)
        _check_batches(self)
        _check_estimator(self)
        _check_choices(self)
        for role in TRAINED:
            check_adapter_backend(self.peft, role, self.placement.of(role).backend)
        check_adapter_engine(self.peft, self.rollout.kind)
        check_ranks(
            self.placement,
            self.roles(),
            rollout_batch_size=self.rollout_batch_size,
            minibatch_size=self.minibatch_size,
            num_documents=self.num_documents,
        )

    def roles(self) -> list[str]:
        """Who takes part, the policy first; vLLM samples in an environment of its own."""
        critic = ["critic"] if self.advantage.needs_critic else []
        engine = ["engine"] if self.rollout.kind is EngineKind.hf else []
        reward_model = ["reward_model"] if self.reward.reads_model else []
        return ["policy", "ref_policy", *critic, *reward_model, *engine]

    def worker_groups(self) -> list[GroupShape]:
        """The processes of these roles; none where the stage's own does."""
        return self.placement.groups(self.roles())

    def computes(self) -> bool:
        """Beside worker groups it starts vLLM."""
        return self.rollout.kind is EngineKind.vllm or super().computes()

    def cautions(self) -> list[str]:
        """What is allowed, and seldom meant: truncated sampling, published GRPO's KL."""
        cautions = sampling_cautions(self.rollout)
        if self.advantage.needs_critic and not self.reward.reads_model:
            cautions += ["without a reward model the critic starts as ppo_init with a head of 0"]
        if self.kl_placement is KlPlacement.loss and self.kl_loss is KlLoss.k3:
            cautions += [
                "align.kl_loss=k3 is not the KL penalty of Eq. 2: as a loss it is a regulariser of "
                "the forward kind, KL(reference || policy), with another optimum. "
                "kl_placement=reward or kl_loss=k2 reach the one of Eq. 2."
            ]
        return cautions

    @property
    def prompts_per_iteration(self) -> int:
        """Prompts of a rollout batch, each with `samples_per_prompt` responses."""
        return self.rollout_batch_size // self.samples_per_prompt

    @property
    def num_minibatches(self) -> int:
        """Optimizer steps of one pass over a rollout batch."""
        return self.rollout_batch_size // self.minibatch_size

    @property
    def num_updates(self) -> int:
        """Optimizer steps of the whole training."""
        return self.iterations * self.ppo_epochs * self.num_minibatches

    @property
    def num_documents(self) -> int:
        """Pretraining documents an optimizer step: the paper's 8 an episode."""
        return round(self.ptx_ratio * self.minibatch_size) if self.ptx_coef > 0 else 0


POSITIVE = (
    "iterations",
    "rollout_batch_size",
    "samples_per_prompt",
    "minibatch_size",
    "ppo_epochs",
    "microbatch_tokens",
    "sequences_per_batch",
    "max_prompt_tokens",
    "max_response_tokens",
    "temperature",
    "target_kl",
    "kl_horizon",
    "clip_range",
    "max_document_tokens",
    "policy_lr",
    "critic_lr",
    "validation_every",
    "validation_prompts",
    "checkpoint_every",
)
NOT_NEGATIVE = (
    "kl_coef",
    "missing_eos_penalty",
    "ptx_coef",
    "ptx_ratio",
    "warmup_iterations",
    "sample_rows",
)
SHARES = ("gamma", "gae_lambda", "warmup_start", "ema_decay")


def _check_signs(config: PpoConfig) -> None:
    config.check_adamw()
    check_positive(config, *POSITIVE)
    check_not_negative(config, *NOT_NEGATIVE)


def _check_shares(config: PpoConfig) -> None:
    check_share(config, *SHARES)
    if config.value_clip_range is not None and not config.value_clip_range > 0:
        raise UserError(
            "value_clip_range must be positive",
            got=str(config.value_clip_range),
            do="set it to null for a value loss without clipping",
        )


def _check_batches(config: PpoConfig) -> None:
    whole, part = config.rollout_batch_size, config.minibatch_size
    check_divides(config, "minibatch_size", "rollout_batch_size")
    check_divides(config, "samples_per_prompt", "rollout_batch_size")
    whitens = config.whiten_advantages or config.whiten_rewards
    if whitens and whole < MIN_WHITENING_SEQUENCES:
        raise UserError(
            f"whitening needs {MIN_WHITENING_SEQUENCES} or more sequences",
            got=f"rollout_batch_size={whole}",
            do=f"set rollout_batch_size={MIN_WHITENING_SEQUENCES}, or turn the whitening off",
        )
    if config.ptx_coef > 0 and config.num_documents < 1:
        raise UserError(
            "ptx_ratio gives no pretraining document to a minibatch",
            got=f"{config.ptx_ratio} documents an episode, {part} episodes a minibatch",
            do=f"set ptx_ratio={1 / part:g} or more, or ptx_coef=0",
        )


def _check_estimator(config: PpoConfig) -> None:
    if config.advantage.compares_samples and config.samples_per_prompt < 2:
        whole = config.rollout_batch_size
        nearest = next((k for k in range(2, whole + 1) if whole % k == 0), 2)
        raise UserError(
            f"samples_per_prompt must be 2 or more: {config.advantage} compares them",
            got=str(config.samples_per_prompt),
            do=f"set samples_per_prompt={nearest} or more; align/advantage={config.advantage} does",
        )
    if config.advantage is Advantage.reinforce_pp and not config.whiten_advantages:
        raise UserError(
            "whiten_advantages is all the baseline that reinforce_pp has",
            got="false",
            do="set whiten_advantages=true",
        )


def _check_choices(config: PpoConfig) -> None:
    if config.kl_loss is KlLoss.k3 and config.kl_placement is KlPlacement.reward:
        raise UserError(
            "kl_loss has no effect while the KL stands in the reward",
            got="kl_loss=k3, kl_placement=reward",
            do="set kl_placement=loss, or leave kl_loss out",
        )
    if config.select is Select.gold and config.gold is GoldKind.none:
        raise UserError(
            "select cannot be gold where no true reward is known",
            got="gold=none",
            do="set gold=world on the embedded world; elsewhere select=ema or select=proxy_judge",
        )
