"""The whole configuration of a run, typed: a dataclass a group, each beside the code that reads it.

`conf/` holds the options of every group; `pipeline.composition` composes and checks them.
"""

import hashlib
import json
from dataclasses import asdict, dataclass, field
from enum import StrEnum
from pathlib import Path

from pipeline.fingerprint import effective
from pipeline.rounds import DefaultWorkflowConfig, OnlineDpoConfig, round_configs
from pipeline.selection import Selection
from pipeline.tracking.config import TrackingConfig
from pipeline.workflow import MEMBER, SELECTED, WINNERS
from reward.config import RewardConfig
from stages.contracts import GoldKind, StageConfig, UserError, check_not_negative
from stages.lm.engines.config import RolloutConfig
from stages.lm.peft.config import PeftConfig, PeftKind
from stages.lm.precision import PrecisionConfig, check_precision
from stages.step0_base.config import BaseConfig, BaseKind
from stages.step0_data.config import DemonstrationsConfig, PromptsConfig, TextConfig
from stages.step0_data.files_config import FilesConfig, PromptFilesConfig
from stages.step1_sft.config import PpoInitConfig, Select, SftConfig, SftSelectedConfig
from stages.step2_reward.config import ComparisonsConfig, CompletionsConfig, RewardModelConfig
from stages.step2_reward.ensemble_config import EnsembleConfig, member_configs
from stages.step3_policy.best_of_n_config import BestOfNConfig, WinnersConfig
from stages.step3_policy.config import DpoConfig, KtoConfig, PolicyStart, PreferenceConfig
from stages.step3_policy.ppo.config import PpoConfig
from stages.step3_policy.ppo.placement import PlacementConfig
from stages.step4_evaluation.config import EvaluationConfig

NO_EFFECT = {"affects_result": False}  # as `no_effect`: stays out of the run id


class ExecutorKind(StrEnum):
    """What runs the stages: Ray tasks, or this process (debuggers, profilers, no Ray)."""

    ray = "ray"
    local = "local"


@dataclass(kw_only=True)
class ExecutorConfig:
    """How stages are run.

    retries: further tries of a stage whose worker died. time_limit_s: stages then checkpoint and
    the run ends; the next one continues. capture_output: what stages print goes to their logs;
    false leaves it on the terminal, as a debugger needs it. gpus: of each stage's own process, and
    of the vLLM that it starts; worker groups have placement.gpus.
    """

    kind: ExecutorKind = ExecutorKind.ray
    retries: int = 1
    time_limit_s: float | None = None
    capture_output: bool = True
    gpus: float = 0.0

    def __post_init__(self) -> None:
        check_not_negative(self, "gpus")


@dataclass(kw_only=True)
class ClusterConfig:
    """The Ray cluster: one that is joined by `address`, else started here and ended with the run.

    num_cpus: of the cluster started here; None: the machine's. dashboard: on the loopback.
    """

    address: str | None = None
    num_cpus: int | None = None
    dashboard: bool = True
    dashboard_port: int = 8265


@dataclass(kw_only=True)
class LabelersConfig:
    """`data/comparisons=labelers`: the sft policy's completions, ranked by the group `labeler`."""


@dataclass(kw_only=True)
class DataConfig:
    """Where the data assets come from: the embedded world, or files and data sets of the hub."""

    demonstrations: DemonstrationsConfig | FilesConfig
    prompts: PromptsConfig | PromptFilesConfig
    comparisons: LabelersConfig | FilesConfig
    text: TextConfig | FilesConfig


@dataclass(kw_only=True)
class GivenConfig:
    """Assets the user brings: a run (its id or folder) that made them, or an artifact's folder."""

    demonstrations: str | None = None
    prompts: str | None = None
    text: str | None = None
    base: str | None = None
    sft: str | None = None
    sft_selected: str | None = None
    ppo_init: str | None = None
    completions: str | None = None
    comparisons: str | None = None
    reward_model: str | None = None
    judge: str | None = None  # a reward model of another run, for align.select=proxy_judge
    policy: str | None = None


@dataclass(kw_only=True)
class SameAsSftConfig:
    """`ppo_init=same_as_sft`: no stage of its own, PPO starts from the sft asset."""


@dataclass(kw_only=True)
class RejectionSamplingConfig:
    """`align=rejection_sampling`: the best of n samples, and SFT on them, which is the policy."""

    samples: WinnersConfig = field(default_factory=WinnersConfig)
    sft: SftConfig = field(default_factory=SftConfig)

    def __post_init__(self) -> None:
        if self.sft.select is not Select.validation_loss:
            raise UserError(
                "sft.select is validation_loss: the reward model has chosen the data already",
                got=str(self.sft.select),
                do="set align.sft.select=validation_loss",
            )


AlignConfig = PpoConfig | DpoConfig | KtoConfig | BestOfNConfig | RejectionSamplingConfig

# Groups whose option chooses the dataclass, by the option's `kind`.
VARIANTS: dict[str, dict[str, type]] = {
    "align": {
        "ppo": PpoConfig,
        "dpo": DpoConfig,
        "kto": KtoConfig,
        "best_of_n": BestOfNConfig,
        "rejection_sampling": RejectionSamplingConfig,
    },
    "workflow": {"default": DefaultWorkflowConfig, "online_dpo": OnlineDpoConfig},
    "ppo_init": {"trained": PpoInitConfig, "same_as_sft": SameAsSftConfig},
    "data.demonstrations": {"world": DemonstrationsConfig, "files": FilesConfig},
    "data.prompts": {"world": PromptsConfig, "files": PromptFilesConfig},
    "data.comparisons": {"labelers": LabelersConfig, "files": FilesConfig},
    "data.text": {"world": TextConfig, "files": FilesConfig},
}


@dataclass(kw_only=True)
class RunConfig:
    """The keys without a group: the run's name, where it lies, which part of the graph it covers.

    seed: of every stage that is not given one. run_dir: the run's folder; None: runs_dir / run id.
    from_stage: earlier assets must be there already; to_stage: the last stage; force: stages to run
    although their result is there.
    """

    name: str = "run"
    seed: int = 0
    store: Path = field(default=Path("artifacts"), metadata=NO_EFFECT)
    runs_dir: Path = field(default=Path("runs"), metadata=NO_EFFECT)
    run_dir: Path | None = field(default=None, metadata=NO_EFFECT)
    from_stage: str | None = field(default=None, metadata=NO_EFFECT)
    to_stage: str = "evaluation"
    force: list[str] = field(default_factory=list, metadata=NO_EFFECT)
    given: GivenConfig = field(default_factory=GivenConfig)


@dataclass(kw_only=True)
class PipelineConfig(RunConfig):
    """Everything a run depends on. `scale` has been read by the options and is gone by now.

    reward, peft, rollout, placement, precision: the stages' options refer to them, so they count
    where they are used.
    """

    data: DataConfig
    base: BaseConfig
    sft: SftConfig
    sft_selected: SftSelectedConfig
    ppo_init: PpoInitConfig | SameAsSftConfig
    completions: CompletionsConfig
    comparisons: ComparisonsConfig
    reward_model: RewardModelConfig
    reward: RewardConfig = field(metadata=NO_EFFECT)
    ensemble: EnsembleConfig
    align: AlignConfig
    workflow: DefaultWorkflowConfig | OnlineDpoConfig
    evaluation: EvaluationConfig
    peft: PeftConfig = field(metadata=NO_EFFECT)
    rollout: RolloutConfig = field(metadata=NO_EFFECT)
    placement: PlacementConfig = field(metadata=NO_EFFECT)
    precision: PrecisionConfig = field(metadata=NO_EFFECT)
    executor: ExecutorConfig = field(metadata=NO_EFFECT)
    cluster: ClusterConfig = field(metadata=NO_EFFECT)
    tracking: TrackingConfig = field(metadata=NO_EFFECT)

    def __post_init__(self) -> None:
        self._check_rounds()
        self._check_reward()
        groups = [
            group for config in stage_configs(self).values() for group in config.worker_groups()
        ]
        if groups and self.executor.kind is ExecutorKind.local:
            raise UserError(
                "executor=local works in one process, and placement asks for more",
                got=", ".join(f"{group.name}: {group.processes}" for group in groups),
                do="take executor=ray, or placement=colocated placement.processes=1",
            )
        if self.ensemble.members > 1 and self.peft.kind.has_adapter:
            raise UserError(
                "an ensemble is trained whole: PPO has one reward adapter beside its policy's",
                got=f"ensemble.members={self.ensemble.members}, peft={self.peft.kind}",
                do="take peft=none, or ensemble=none",
            )
        if self.base.kind is BaseKind.scratch:
            self._check_peft()
        self._check_gold()
        check_precision(self.precision.kind, max(self.executor.gpus, self.placement.gpus))

    def _check_peft(self) -> None:
        """What a base from scratch has no biases, or no positions, for."""
        if self.peft.kind is PeftKind.bitfit:
            raise UserError(
                "peft=bitfit finds no biases to train",
                got="a base from scratch, which is a Llama",
                do="take peft=lora, or a base with biases: gpt2, opt, gpt_neox, bloom, phi, qwen2",
            )
        needed = self.reward_model.max_length + self.peft.positions_taken
        if self.peft.positions_taken and self.base.max_length < needed:
            raise UserError(
                "virtual tokens take positions that the base does not have",
                got=f"base.max_length={self.base.max_length}, and reward_model.max_length + "
                f"peft.num_virtual_tokens = {needed}",
                do=f"set base.max_length={needed}",
            )

    def _check_rounds(self) -> None:
        """Rounds repeat what learns from comparisons, and from a policy that can answer."""
        if not isinstance(self.workflow, OnlineDpoConfig):
            return
        from_base = isinstance(self.align, DpoConfig) and self.align.start is PolicyStart.base
        if not isinstance(self.align, PreferenceConfig) or from_base:
            raise UserError(
                "workflow=online_dpo repeats DPO, a relative or KTO, from SFT on",
                got="align.start=base" if from_base else f"align: {type(self.align).__name__}",
                do="set align=dpo (or cdpo, ipo, hinge, robust, simpo, orpo, kto)",
            )

    def _check_gold(self) -> None:
        """Gold is a function of the world's own prompts: no other prompt can be judged by it."""
        if isinstance(self.data.prompts, PromptsConfig):
            return
        asked = {"evaluation.gold": self.evaluation.gold}
        if isinstance(self.align, PpoConfig | BestOfNConfig):
            asked["align.gold"] = self.align.gold
        if isinstance(self.align, RejectionSamplingConfig):
            asked["align.samples.gold"] = self.align.samples.gold
        for key, gold in asked.items():
            if gold is not GoldKind.none:
                raise UserError(
                    f"{key}={gold} knows only the embedded world's prompts",
                    got="prompts from files",
                    do=f"leave {key} out: it is none with prompts from files",
                )

    def _check_reward(self) -> None:
        """One reward for training and evaluation, and somebody who maximises it."""
        trains = isinstance(self.align, PpoConfig)
        wanted = self.reward if trains else RewardConfig()
        used = self.align.reward if isinstance(self.align, PpoConfig) else self.reward
        if used != wanted or self.evaluation.reward != self.reward:
            raise UserError(
                "the reward is one for training and evaluation"
                if trains
                else "only ppo maximises the group reward, not the group reward",
                got=", ".join(f"{name}: {weight:g}" for name, weight in used.weights().items()),
                do="set reward.KEY, not align.reward.KEY" if trains else "leave reward out",
            )


def run_id(config: PipelineConfig) -> str:
    """The experiment's name and eight hex digits of all that can change the result."""
    text = json.dumps(effective(config), sort_keys=True)
    return f"{config.name}-{hashlib.sha256(text.encode()).hexdigest()[:8]}"


def run_folder(config: PipelineConfig) -> Path:
    """Where the run lies: the same command finds the same folder."""
    return config.run_dir or config.runs_dir / run_id(config)


def stage_configs(config: PipelineConfig) -> dict[str, StageConfig]:
    """The config of each asset's stage.

    No `ppo_init` where PPO starts from the sft asset, no `completions` where comparisons are
    brought.
    """
    configs: dict[str, StageConfig] = {
        "demonstrations": config.data.demonstrations,
        "prompts": config.data.prompts,
        "text": config.data.text,
        "base": config.base,
        "sft": config.sft,
        **_comparisons(config),
        "reward_model": config.reward_model,
        **_policy(config),
        "evaluation": config.evaluation,
    }
    if isinstance(config.ppo_init, PpoInitConfig):
        configs["ppo_init"] = config.ppo_init
    if config.sft.select is Select.reward_model:
        configs[SELECTED] = config.sft_selected
    if config.ensemble.members > 1:
        members = member_configs(config.reward_model, config.ensemble)
        configs |= {f"{MEMBER}{number}": member for number, member in enumerate(members, start=1)}
        configs["reward_model"] = config.ensemble
    return configs


def _policy(config: PipelineConfig) -> dict[str, StageConfig]:
    """What makes the policy: a stage, the two of rejection sampling, or rounds."""
    if isinstance(config.align, RejectionSamplingConfig):
        return {WINNERS: config.align.samples, "policy": config.align.sft}
    if isinstance(config.workflow, OnlineDpoConfig):
        assert isinstance(config.align, PreferenceConfig)
        return round_configs(config.workflow, config.completions, config.comparisons, config.align)
    return {"policy": config.align}


def _comparisons(config: PipelineConfig) -> dict[str, StageConfig]:
    """Brought comparisons need no completions; labelers rank those of the sft policy."""
    if isinstance(config.data.comparisons, FilesConfig):
        return {"comparisons": config.data.comparisons}
    return {"completions": config.completions, "comparisons": config.comparisons}


def selection(config: PipelineConfig) -> Selection:
    """Which part of the graph the config asks for."""
    return Selection(
        to_stage=config.to_stage,
        from_stage=config.from_stage,
        force=tuple(config.force),
        given={asset: named for asset, named in asdict(config.given).items() if named},
    )
