"""Which part of the graph a run covers, and all that is wrong with graph and selection."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from graphlib import CycleError, TopologicalSorter

from pipeline.errors import nearest
from pipeline.workflow import JUDGE, TARGET, Graph
from stages.contracts import UserError
from stages.step0_data.files_config import FilesConfig
from stages.step2_reward.config import ComparisonsConfig


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
    if "prompts" not in made or not isinstance(selected["prompts"].config, FilesConfig):
        return []
    return [
        UserError(
            f"labeler={stage.config.labeler.kind} ranks by gold, which knows the embedded world "
            "alone",
            got=f"prompts from files, {asset} by labelers",
            do="bring comparisons: data/comparisons=generic data.comparisons.path=FILE"
            if asset == "comparisons"
            else "set workflow.ranked_by=reward_model",
        )
        for asset, stage in selected.items()
        if isinstance(stage.config, ComparisonsConfig)
        and {asset, stage.reads["completions"]} <= made
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
