"""The workflow: which assets there are, what makes each, and what it reads.

    text ─► base ─┬─► sft ─► completions ─► comparisons ─► reward_model ─► policy ─► evaluation
                  └─► ppo_init ───────────────────────────────────────────┘

    demonstrations ─► sft, ppo_init, reward_model
    prompts ────────► completions, policy, evaluation
    text ───────────► ppo_init, policy, evaluation
    sft ────────────► reward_model, evaluation (the opponent in every win rate)

    reward_model reads sft, of which it is a copy; base instead with reward_model.start=base
    demonstrations, prompts and text come from the embedded world or from files; comparisons too may
    come from files, and then there are no completions

    with sft.select=reward_model, sft_selected is made of sft, reward_model and prompts; DPO,
    best_of_n, evaluation and ppo_init=same_as_sft then read it in place of sft

    policy reads    ppo         ppo_init, reward_model, prompts, text; judge with select=proxy_judge
                                no reward_model with reward.model.weight=0, and then evaluation
                                reads neither that nor comparisons
                    dpo, kto    sft, comparisons; base in place of sft with start=base
                    best_of_n   sft, reward_model, prompts
                    rejection_sampling  winners: the best of n of sft by reward_model on prompts,
                                on which sft is fine-tuned
    with workflow=online_dpo the policy comes of rounds, each making completions_N of the policy so
    far, comparisons_N by labelers or the reward model, and policy_N by dpo, a relative or kto
    with peft=lora, reward_model, ppo and dpo read the base as well: their adapters lie on it
    with ensemble.members=M, reward_model reads reward_member_1 .. M, each made like one alone
    evaluation reads the policy and its start, sft, base, reward_model, comparisons, prompts, text

The judge is the reward model of another run: it is given, never made.

This is the only place of the pipeline that names concrete stages. Their modules are imported when
they run, never here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field

from stages.contracts import StageConfig
from stages.step0_data.files_config import FilesConfig
from stages.step1_sft.config import SftConfig, SftSelectedConfig
from stages.step2_reward.config import RankingConfig, RewardModelConfig
from stages.step3_policy.best_of_n_config import BestOfNConfig
from stages.step3_policy.config import (
    DpoConfig,
    KtoConfig,
    PolicyStart,
    PreferenceConfig,
    Reference,
)
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step4_evaluation.config import EvaluationConfig

TARGET = "evaluation"
DATA = ("demonstrations", "prompts", "text")
JUDGE = "judge"
KINDS = {JUDGE: "reward_model"}  # what an asset is, where it is called by another name
SELECTED = "sft_selected"  # the SFT epoch that the reward model chose
WINNERS = "winners"  # the best of n samples, on which rejection sampling fine-tunes
ROUND = "policy_"  # and a number from 1: what a round of online DPO makes
MEMBER = "reward_member_"  # and a number from 1: a reward model of an ensemble
Graph = dict[str, "Stage"]
Row = tuple[str, str, dict[str, str]]  # asset, function, reads


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What makes one asset. function: `module:function`. reads: keyword -> asset."""

    function: str
    config: StageConfig
    reads: Mapping[str, str] = field(default_factory=dict)


def workflow(configs: Mapping[str, StageConfig]) -> Graph:
    """The whole graph; what makes the policy follows from the class of its config.

    configs: asset -> config of its stage. Without one for `ppo_init`, PPO starts from sft; without
    `completions`, comparisons come from files.
    """
    policy = configs["policy"]
    without = isinstance(policy, PpoConfig) and not policy.reward.reads_model
    reward_model, labels = ("", "") if without else (" reward_model", " comparisons")
    if isinstance(policy, PpoConfig) and policy.select is Select.proxy_judge:
        configs = {**configs, JUDGE: configs["reward_model"]}
    sft = SELECTED if SELECTED in configs else "sft"
    start = _policy_begins(configs, sft)
    table: list[Row] = [
        *((asset, _data_function(asset, configs[asset]), {}) for asset in DATA),
        ("base", "stages.step0_base.base:run", _reads("text")),
        ("sft", "stages.step1_sft.sft:run", _reads("base demonstrations")),
        ("ppo_init", "stages.step1_sft.ppo_init:run", _reads("base demonstrations text")),
        ("completions", "stages.step2_reward.completions:run", _reads("sft prompts")),
        _comparisons(configs["comparisons"]),
        *_reward_models(configs),
        (
            SELECTED,
            "stages.step1_sft.selected:run",
            _reads("sft reward_model prompts") | _base_of_adapters(configs.get(SELECTED)),
        ),
        (JUDGE, "stages.step2_reward.reward_model:run", {}),
        (WINNERS, "stages.step3_policy.winners:run", _reads(f"sft={sft} reward_model prompts")),
        *_policies(configs, start),
        (
            "evaluation",
            "stages.step4_evaluation.evaluate:run",
            _reads(f"policy ppo_init={start} sft={sft} base prompts text{reward_model}{labels}"),
        ),
    ]
    return {
        asset: Stage(function=function, config=configs[asset], reads=reads)
        for asset, function, reads in table
        if asset in configs
    }


def _policy_begins(configs: Mapping[str, StageConfig], sft: str) -> str:
    """The asset that becomes the policy, from which its KL is measured."""
    policy = configs["policy"]
    if isinstance(policy, PpoConfig) and "ppo_init" in configs:
        return "ppo_init"
    from_base = isinstance(policy, DpoConfig) and policy.start is PolicyStart.base
    return "base" if from_base else sft


def _policies(configs: Mapping[str, StageConfig], start: str) -> list[Row]:
    """The policy; before it, of online DPO, the rounds: sampled, ranked, learnt from."""
    rounds = sum(asset.startswith("completions_") for asset in configs)
    if not rounds:
        return [("policy", *_policy(configs["policy"], start, "comparisons"))]
    table: list[Row] = []
    before = start
    for number in range(1, rounds + 1):
        completions, comparisons, policy = round_assets(number, rounds)
        made = _policy(configs[policy], before, comparisons, start)
        table += [
            (completions, "stages.step2_reward.completions:run", _reads(f"sft={before} prompts")),
            _ranked(comparisons, configs[comparisons], completions),
            (policy, *made),
        ]
        before = policy
    return table


def round_assets(number: int, rounds: int) -> tuple[str, str, str]:
    """What round `number` of online DPO makes; the last one's policy is the policy."""
    policy = "policy" if number == rounds else f"{ROUND}{number}"
    return f"completions_{number}", f"comparisons_{number}", policy


def _policy(
    config: StageConfig, start: str, comparisons: str, first: str | None = None
) -> tuple[str, dict[str, str]]:
    """What makes a policy of that config from `start`, and what that reads.

    first: where the first round of online DPO started.
    """
    function, reads = {
        PpoConfig: ("ppo.stage", f"ppo_init={start} prompts text"),
        DpoConfig: ("dpo", f"sft={start} comparisons={comparisons}"),
        KtoConfig: ("kto", f"sft={start} comparisons={comparisons}"),
        BestOfNConfig: ("best_of_n", f"sft={start} reward_model prompts"),
        SftConfig: ("", f"base={start} demonstrations={WINNERS}"),
    }[type(config)]
    if isinstance(config, PpoConfig):
        reads += " reward_model" if config.reward.reads_model else ""
        reads += f" {JUDGE}" if config.select is Select.proxy_judge else ""
    if isinstance(config, PreferenceConfig) and first not in (None, start):
        reads += f" reference={first}" if config.reference is Reference.first else ""
    module = f"stages.step3_policy.{function}" if function else "stages.step1_sft.sft"
    return f"{module}:run", _reads(reads) | _base_of_adapters(config)


def _data_function(asset: str, config: StageConfig) -> str:
    """Who makes a data asset: the embedded world, or the reader of files."""
    if isinstance(config, FilesConfig):
        return f"stages.step0_data.files:{asset}"
    return f"stages.step0_data.{asset}:run"


def _comparisons(config: StageConfig) -> Row:
    """Comparisons that the user brings, or that labelers make of completions."""
    if isinstance(config, FilesConfig):
        return ("comparisons", _data_function("comparisons", config), {})
    return _ranked("comparisons", config, "completions")


def _ranked(asset: str, config: StageConfig, completions: str) -> Row:
    """Completions that labelers rank, or a reward model."""
    reads = _reads(f"completions={completions}")
    if isinstance(config, RankingConfig):
        return (asset, "stages.step2_reward.ranking:run", reads | _reads("reward_model"))
    return (asset, "stages.step2_reward.comparisons:run", reads)


def _reward_models(configs: Mapping[str, StageConfig]) -> list[Row]:
    """One that is trained, or members that are and the ensemble of them."""
    trained, members = ["reward_model"], [asset for asset in configs if asset.startswith(MEMBER)]
    table: list[Row] = []
    if members:
        reads = _reads("comparisons") | {member: member for member in members}
        table = [("reward_model", "stages.step2_reward.ensemble:run", reads)]
        trained = members
    return [
        (
            asset,
            "stages.step2_reward.reward_model:run",
            _reads(f"{_reward_model_begins(configs[asset])} comparisons demonstrations")
            | _base_of_adapters(configs[asset]),
        )
        for asset in trained
    ] + table


def copies_adapters(config: StageConfig | None) -> bool:
    """Whether a stage works on the adapters of what it reads."""
    if not isinstance(config, RewardModelConfig | PreferenceConfig | PpoConfig | SftSelectedConfig):
        return False
    return config.peft.has_adapter


def _reward_model_begins(config: StageConfig) -> str:
    """The asset that becomes the reward model."""
    return config.start.value if isinstance(config, RewardModelConfig) else "sft"


def reads_as_text(config: StageConfig) -> bool:
    """Whether a stage gives text to a reward model that does not read the others' tokens."""
    if isinstance(config, PpoConfig):
        return not config.peft.has_adapter
    return isinstance(config, EvaluationConfig | RankingConfig)


def _base_of_adapters(config: StageConfig | None) -> dict[str, str]:
    return _reads("base") if copies_adapters(config) else {}


def _reads(assets: str) -> dict[str, str]:
    """Keyword -> asset: `keyword=asset`, or one word where both are called alike."""
    pairs = (word.rpartition("=") for word in assets.split())
    return {keyword or asset: asset for keyword, _, asset in pairs}
