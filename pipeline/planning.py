"""What a run will do, asset by asset, and why: make it, find it in the store, or take a given one.

Nothing here imports a stage, torch or Ray: a run with nothing to do is over in seconds.
"""

import time
from dataclasses import dataclass, field
from enum import StrEnum
from pathlib import Path

from pipeline.artifacts import Store
from pipeline.fingerprint import (
    Parts,
    differences,
    external_digests,
    hashed,
    package_versions,
)
from pipeline.manifest import Artifact, check_sizes, disagreements, read_artifact
from pipeline.runs import find_run
from pipeline.selection import Selection, descendants, graph_faults, select
from pipeline.sources import Sources
from pipeline.summary import RUN_FILE, read_run
from pipeline.workflow import JUDGE, KINDS, Graph, Stage, reads_as_text
from stages.contracts import UserError

REASONS_SHOWN = 3


class Action(StrEnum):
    """What happens to an asset in this run."""

    RUN = "run"
    CACHED = "cached"
    GIVEN = "given"


@dataclass(frozen=True, kw_only=True)
class PlannedStage:
    """One asset of a run. parts: None if it is given. artifact: None if it is not there yet."""

    stage: Stage
    action: Action
    why: str
    fingerprint: str
    folder: Path
    parts: Parts | None = None
    artifact: Artifact | None = None


@dataclass(frozen=True, kw_only=True)
class Plan:
    """All assets of a run, parents first."""

    store: Store
    target: str
    stages: dict[str, PlannedStage] = field(default_factory=dict)

    @property
    def to_run(self) -> list[str]:
        """The assets to make."""
        return [asset for asset, planned in self.stages.items() if planned.action is Action.RUN]

    def inputs(self, asset: str) -> dict[str, Path]:
        """Keyword of the stage -> folder of the artifact it reads."""
        reads = self.stages[asset].stage.reads
        return {keyword: self.stages[parent].folder for keyword, parent in reads.items()}

    def read_by_this_run(self) -> dict[str, Artifact]:
        """The artifacts from before that a stage to run reads, and the target if it is there."""
        inputs = {
            parent for asset in self.to_run for parent in self.stages[asset].stage.reads.values()
        }
        return {
            asset: planned.artifact
            for asset, planned in self.stages.items()
            if planned.artifact
            and planned.action is not Action.RUN
            and asset in inputs | {self.target}
        }


def make_plan(
    graph: Graph, selection: Selection, store: Store, runs_dir: Path
) -> tuple[Plan, list[UserError]]:
    """The plan, and every fault of graph, selection and artifacts; a faulty asset is left out.

    runs_dir: where a `given` run is looked up by its id.
    """
    plan = Plan(store=store, target=selection.to_stage)
    if faults := graph_faults(graph, selection):
        return plan, faults
    planner = _Planner(plan, selection, runs_dir)
    selected = select(graph, selection)
    for asset, stage in selected.items():
        planner.add(asset, stage)
    there = {a: p.artifact for a, p in plan.stages.items() if p.artifact is not None}
    faults = (
        planner.faults
        + disagreements(_in_tokens(plan, there))
        + _missing_before(plan, selected, selection)
    )
    return plan, faults + _own_judge(plan)


def _in_tokens(plan: Plan, there: dict[str, Artifact]) -> dict[str, Artifact]:
    """The artifacts that must agree on their tokens: not a reward model that all give text."""
    readers = [p.stage for p in plan.stages.values() if "reward_model" in p.stage.reads.values()]
    if not all(reads_as_text(stage.config) for stage in readers):
        return there
    return {asset: artifact for asset, artifact in there.items() if asset != "reward_model"}


THE_WAY_IN = "stages.lm.process"  # sets threads and generators before every stage


class _Planner:
    """Adds assets to a plan one after another, collecting faults."""

    def __init__(self, plan: Plan, selection: Selection, runs_dir: Path) -> None:
        self.plan, self.faults = plan, list[UserError]()
        self._selection, self._runs_dir = selection, runs_dir
        self._sources = Sources()

    def add(self, asset: str, stage: Stage) -> None:
        """Plan one asset; left out if it, or something it reads, has a fault."""
        given = self._selection.given.get(asset)
        if not given and not set(stage.reads.values()) <= self.plan.stages.keys():
            return
        try:
            planned = self._given(asset, stage, given) if given else self._own(asset, stage)
        except UserError as fault:
            self.faults.append(fault)
        else:
            self.plan.stages[asset] = planned

    def _given(self, asset: str, stage: Stage, named: str) -> PlannedStage:
        artifact = given_artifact(asset, named, self._runs_dir)
        return PlannedStage(
            stage=stage,
            action=Action.GIVEN,
            why=f"given: {named}",
            fingerprint=artifact.manifest.fingerprint,
            folder=artifact.folder,
            artifact=artifact,
        )

    def _own(self, asset: str, stage: Stage) -> PlannedStage:
        parts = self._parts(asset, stage)
        fingerprint = parts.fingerprint()
        forced = asset in self._selection.force
        artifact = None if forced else self.plan.store.find(asset, fingerprint)
        return PlannedStage(
            stage=stage,
            action=Action.CACHED if artifact else Action.RUN,
            why=_when(artifact) if artifact else self._reason(asset, parts, forced),
            fingerprint=fingerprint,
            folder=self.plan.store.folder(asset, fingerprint),
            parts=parts,
            artifact=artifact,
        )

    def _parts(self, asset: str, stage: Stage) -> Parts:
        parents = {
            keyword: self.plan.stages[parent].fingerprint for keyword, parent in stage.reads.items()
        }
        module = stage.function.partition(":")[0]
        return Parts(
            stage=f"{asset} by {stage.function}",
            code=self._sources.version(module) | self._sources.version(THE_WAY_IN),
            packages=package_versions(self._sources.packages(module)),
            config=hashed(stage.config),
            external=external_digests(stage.config, asset) | stage.config.versions(),
            parents=parents,
        )

    def _reason(self, asset: str, parts: Parts, forced: bool) -> str:
        work = self.plan.store.work(parts.fingerprint())
        resumed = work.checkpoints.is_dir() and any(work.checkpoints.iterdir())
        return _why(asset, parts, self.plan.store, forced) + (
            "; continues from a checkpoint" if resumed else ""
        )


def _why(asset: str, parts: Parts, store: Store, forced: bool) -> str:
    """Why an asset is made: forced, never made, or what differs from the one made last."""
    if forced:
        return "forced"
    newest = store.newest(asset, parts.stage)
    if newest is None:
        return "not made yet"
    changed = differences(parts, newest.manifest.parts)
    more = f" and {len(changed) - REASONS_SHOWN} more" if len(changed) > REASONS_SHOWN else ""
    return "changed: " + "; ".join(changed[:REASONS_SHOWN]) + more


def _when(artifact: Artifact) -> str:
    made = time.strftime("%Y-%m-%d %H:%M", time.localtime(artifact.manifest.time.ended))
    return f"made {made}"


def given_artifact(asset: str, named: str, runs_dir: Path) -> Artifact:
    """The artifact a user brings: of a run (by id or folder), or a folder with a manifest.

    Raises:
        UserError: there is none, it is damaged, or it is of another kind.
    """
    kind = KINDS.get(asset, asset)
    artifact = read_artifact(_given_folder(kind, named, runs_dir))
    if artifact.manifest.kind != kind:
        raise UserError(
            f"given.{asset} is an artifact of another kind",
            got=f"{artifact.manifest.kind} in {artifact.folder}",
            do=f"give a {kind} artifact, or use given.{artifact.manifest.kind}={named}",
        )
    check_sizes(artifact)
    return artifact


def _given_folder(asset: str, named: str, runs_dir: Path) -> Path:
    folder = Path(named).expanduser().absolute()
    if folder.is_dir() and not (folder / RUN_FILE).is_file():
        return folder
    record = read_run(find_run(named, runs_dir)).stages.get(asset)
    if record is None:
        raise UserError(f"the run {named} has no {asset}", do="give another run or a folder")
    return Path(record.folder)


def _missing_before(plan: Plan, selected: Graph, selection: Selection) -> list[UserError]:
    """With from_stage, whatever does not descend from it must be there."""
    if selection.from_stage is None:
        return []
    later = descendants(selected, selection.from_stage)
    missing = [asset for asset in plan.to_run if asset not in later]
    if not missing:
        return []
    given = " ".join(f"given.{asset}=RUN_OR_FOLDER" for asset in missing)
    return [
        UserError(
            f"from_stage={selection.from_stage} needs what is made before it",
            got=f"not there: {', '.join(f'{a} ({plan.stages[a].why})' for a in missing)}",
            do=f"leave from_stage out to make it, or set {given}",
        )
    ]


def _own_judge(plan: Plan) -> list[UserError]:
    """A judge that is the reward model itself would tell no more than the training reward."""
    judge, trained_on = (plan.stages.get(asset) for asset in (JUDGE, "reward_model"))
    if judge is None or trained_on is None or judge.fingerprint != trained_on.fingerprint:
        return []
    return [
        UserError(
            "the judge is the reward model that training maximises",
            got=f"given.judge={judge.why.removeprefix('given: ')}",
            do="give the reward model of a run with other seeds or other comparisons",
        )
    ]
