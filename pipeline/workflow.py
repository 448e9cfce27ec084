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
                    dpo         sft, comparisons
                    best_of_n   sft, reward_model, prompts
    with peft=lora, reward_model, ppo and dpo read the base as well: their adapters lie on it
    with ensemble.members=M, reward_model reads reward_member_1 .. M, each made like one alone
    evaluation reads the policy and its start, sft, base, reward_model, comparisons, prompts, text

The judge is the reward model of another run: it is given, never made.

This is the only place of the pipeline that names concrete stages. Their modules are imported when
they run, never here.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from pipeline.errors import nearest
from stages.contracts import StageConfig, UserError
from stages.step0_data.files_config import FilesConfig
from stages.step1_sft.config import SftSelectedConfig
from stages.step2_reward.config import ComparisonsConfig, RewardModelConfig
from stages.step3_policy.config import BestOfNConfig, DpoConfig
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step4_evaluation.config import EvaluationConfig

TARGET = "evaluation"
DATA = ("demonstrations", "prompts", "text")
JUDGE = "judge"
KINDS = {JUDGE: "reward_model"}  # what an asset is, where it is called by another name
SELECTED = "sft_selected"  # the SFT epoch that the reward model chose
MEMBER = "reward_member_"  # and a number from 1: a reward model of an ensemble
Graph = dict[str, "Stage"]
Row = tuple[str, str, dict[str, str]]  # asset, function, reads


@dataclass(frozen=True, kw_only=True)
class Stage:
    """What makes one asset. function: `module:function`. reads: keyword -> asset."""

    function: str
    config: StageConfig
    reads: Mapping[str, str] = field(default_factory=dict)


@dataclass(frozen=True, kw_only=True)
class Selection:
    """Which part of the graph a run covers.

    to_stage: the last asset. from_stage: all that does not descend from it must be there already.
    force: assets to make although they are there. given: asset -> a run or an artifact's folder.
    """

    to_stage: str = TARGET
    from_stage: str | None = None
    force: tuple[str, ...] = ()
    given: Mapping[str, str] = field(default_factory=dict)


def workflow(configs: Mapping[str, StageConfig]) -> Graph:
    """The whole graph; what makes the policy follows from the class of its config.

    configs: asset -> config of its stage. Without one for `ppo_init`, PPO starts from sft; without
    `completions`, comparisons come from files.
    """
    policy, align = configs["policy"], type(configs["policy"])
    without = isinstance(policy, PpoConfig) and not policy.reward.reads_model
    reward_model, labels = ("", "") if without else (" reward_model", " comparisons")
    policy_function, policy_reads = {
        PpoConfig: ("stages.step3_policy.ppo.stage:run", f"prompts text{reward_model}"),
        DpoConfig: ("stages.step3_policy.dpo:run", "sft comparisons"),
        BestOfNConfig: ("stages.step3_policy.best_of_n:run", "sft reward_model prompts"),
    }[align]
    if isinstance(policy, PpoConfig) and policy.select is Select.proxy_judge:
        policy_reads += f" {JUDGE}"
        configs = {**configs, JUDGE: configs["reward_model"]}
    on_base = _base_of_adapters(policy)
    sft = {"sft": SELECTED if SELECTED in configs else "sft"}
    own_start = "ppo_init" in configs and align is PpoConfig
    start = {"ppo_init": "ppo_init" if own_start else sft["sft"]}
    table: list[Row] = [
        *((asset, _data_function(asset, configs[asset]), {}) for asset in DATA),
        ("base", "stages.step0_base.base:run", _same("text")),
        ("sft", "stages.step1_sft.sft:run", _same("base demonstrations")),
        ("ppo_init", "stages.step1_sft.ppo_init:run", _same("base demonstrations text")),
        ("completions", "stages.step2_reward.completions:run", _same("sft prompts")),
        _comparisons(configs["comparisons"]),
        *_reward_models(configs),
        (
            SELECTED,
            "stages.step1_sft.selected:run",
            _same("sft reward_model prompts") | _base_of_adapters(configs.get(SELECTED)),
        ),
        (JUDGE, "stages.step2_reward.reward_model:run", {}),
        (
            "policy",
            policy_function,
            _same(policy_reads) | on_base | (start if align is PpoConfig else sft),
        ),
        (
            "evaluation",
            "stages.step4_evaluation.evaluate:run",
            _same(f"policy sft base prompts text{reward_model}{labels}") | sft | start,
        ),
    ]
    return {
        asset: Stage(function=function, config=configs[asset], reads=reads)
        for asset, function, reads in table
        if asset in configs
    }


def _data_function(asset: str, config: StageConfig) -> str:
    """Who makes a data asset: the embedded world, or the reader of files."""
    if isinstance(config, FilesConfig):
        return f"stages.step0_data.files:{asset}"
    return f"stages.step0_data.{asset}:run"


def _comparisons(config: StageConfig) -> Row:
    """Comparisons that the user brings, or that labelers make of completions."""
    if isinstance(config, FilesConfig):
        return ("comparisons", _data_function("comparisons", config), {})
    return ("comparisons", "stages.step2_reward.comparisons:run", _same("completions"))


def _reward_models(configs: Mapping[str, StageConfig]) -> list[Row]:
    """One that is trained, or members that are and the ensemble of them."""
    trained, members = ["reward_model"], [asset for asset in configs if asset.startswith(MEMBER)]
    table: list[Row] = []
    if members:
        reads = _same("comparisons") | {member: member for member in members}
        table = [("reward_model", "stages.step2_reward.ensemble:run", reads)]
        trained = members
    return [
        (
            asset,
            "stages.step2_reward.reward_model:run",
            _same(f"{_reward_model_begins(configs[asset])} comparisons demonstrations")
            | _base_of_adapters(configs[asset]),
        )
        for asset in trained
    ] + table


def copies_adapters(config: StageConfig | None) -> bool:
    """Whether a stage works on the adapters of what it reads."""
    if not isinstance(config, RewardModelConfig | DpoConfig | PpoConfig | SftSelectedConfig):
        return False
    return config.peft.has_adapter


def _reward_model_begins(config: StageConfig) -> str:
    """The asset that becomes the reward model."""
    return config.start.value if isinstance(config, RewardModelConfig) else "sft"


def reads_as_text(config: StageConfig) -> bool:
    """Whether a stage gives text to a reward model that does not read the others' tokens."""
    if isinstance(config, PpoConfig):
        return not config.peft.has_adapter
    return isinstance(config, EvaluationConfig)


def _base_of_adapters(config: StageConfig | None) -> dict[str, str]:
    return _same("base") if copies_adapters(config) else {}


def _same(assets: str) -> dict[str, str]:
    """Keywords that are called like the assets they read."""
    return {asset: asset for asset in assets.split()}


def select(graph: Graph, selection: Selection) -> Graph:
    """What the target needs, parents first; a given asset needs nothing."""
    order = TopologicalSorter(
        {
            asset: () if asset in selection.given else stage.reads.values()
            for asset, stage in _reachable(graph, selection).items()
        }
    )
    return {asset: graph[asset] for asset in order.static_order()}


def _reachable(graph: Graph, selection: Selection) -> Graph:
    found: Graph = {}
    waiting = [selection.to_stage]
    while waiting:
        asset = waiting.pop()
        if asset in found:
            continue
        found[asset] = graph[asset]
        if asset not in selection.given:
            waiting += graph[asset].reads.values()
    return {asset: stage for asset, stage in graph.items() if asset in found}


def descendants(graph: Graph, asset: str) -> set[str]:
    """The asset and all that is made from it; `graph` has parents first."""
    found = {asset}
    for name, stage in graph.items():
        if found & set(stage.reads.values()):
            found.add(name)
    return found


def graph_faults(graph: Graph, selection: Selection) -> list[UserError]:
    """Everything wrong with the graph's shape and with the names in the selection."""
    faults = _missing_inputs(graph) + _unknown_names(graph, selection)
    if faults:
        return faults
    try:
        selected = select(graph, selection)
    except CycleError as error:
        circle = " -> ".join(error.args[1])
        return [
            UserError("the workflow goes in a circle", got=circle, do="remove one of its edges")
        ]
    return [
        *_unused_names(selected, selection),
        *_judge_not_given(selected, selection),
        *_unranked(selected, selection),
    ]


def _missing_inputs(graph: Graph) -> list[UserError]:
    return [
        UserError(f"{asset} reads {parent}, which no stage makes", do=nearest(parent, graph))
        for asset, stage in graph.items()
        for parent in stage.reads.values()
        if parent not in graph
    ]


def _named(selection: Selection) -> list[tuple[str, str]]:
    """Every (key, asset) the selection names."""
    starts = [("from_stage", selection.from_stage)] if selection.from_stage else []
    forced = [("force", asset) for asset in selection.force]
    given = [("given", asset) for asset in selection.given]
    return [("to_stage", selection.to_stage), *starts, *forced, *given]


def _unknown_names(graph: Graph, selection: Selection) -> list[UserError]:
    return [
        UserError(f"{key} names no asset of this workflow", got=asset, do=nearest(asset, graph))
        for key, asset in _named(selection)
        if asset not in graph
    ]


def _unused_names(selected: Graph, selection: Selection) -> list[UserError]:
    faults = [
        UserError(
            f"{key} names an asset that this run does not need",
            got=asset,
            do=f"{selection.to_stage} needs {', '.join(selected)}",
        )
        for key, asset in _named(selection)
        if asset not in selected
    ]
    both = sorted(set(selection.force) & set(selection.given))
    return faults + [
        UserError("an asset cannot be given and forced", got=asset, do="leave one of them out")
        for asset in both
    ]


def _unranked(selected: Graph, selection: Selection) -> list[UserError]:
    """Labelers that rank by gold, and prompts of which gold knows nothing."""
    made = selected.keys() - selection.given.keys()
    if not {"prompts", "completions", "comparisons"} <= made:
        return []
    ranked, prompts = selected["comparisons"].config, selected["prompts"].config
    if not isinstance(ranked, ComparisonsConfig) or not isinstance(prompts, FilesConfig):
        return []
    return [
        UserError(
            f"labeler={ranked.labeler.kind} ranks by gold, which knows the embedded world alone",
            got="prompts from files, comparisons by labelers",
            do="bring comparisons: data/comparisons=generic data.comparisons.path=FILE",
        )
    ]


def _judge_not_given(selected: Graph, selection: Selection) -> list[UserError]:
    if JUDGE not in selected or JUDGE in selection.given:
        return []
    return [
        UserError(
            "align.select=proxy_judge needs a judge that training does not maximise",
            got="no given.judge",
            do="make another reward model, for example with completions.seed=1 comparisons.seed=1 "
            "reward_model.seed=1 to_stage=reward_model, and set given.judge=RUN",
        )
    ]
