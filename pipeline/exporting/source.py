"""Which of a run's models is exported, what it stands on, and how it was sampled in training."""

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pipeline.errors import nearest
from pipeline.manifest import Artifact, Manifest, check_sizes, read_artifact
from pipeline.reporting.data import READY, load_manifests
from pipeline.runs import read_config
from pipeline.summary import RunRecord, read_run
from stages.contracts import UserError

BEST_OF_N, ENSEMBLE = "best_of_n.json", "ensemble.json"  # as their stages write them


@dataclass(frozen=True, kw_only=True)
class Exported:
    """A model of a run: its artifact, and all that the run knows."""

    run: Path
    record: RunRecord
    config: dict[str, Any]
    manifests: dict[str, Manifest]
    asset: str
    artifact: Artifact

    @property
    def model(self) -> Path:
        """The model's folder."""
        return self.artifact.folder / "model"

    @property
    def scores(self) -> bool:
        """Whether it is a reward model."""
        return "reward_bias" in self.artifact.manifest.metrics

    @property
    def sampling(self) -> dict[str, Any] | None:
        """Temperature and truncation of the rollouts that trained it, and the longest response.

        What is trained on texts knows neither: it is sampled as it is. None: a reward model.
        """
        if self.scores:
            return None
        trained = self.artifact.manifest.config
        rollout = trained.get("rollout", {})
        return {
            "temperature": trained.get("temperature", 1.0),
            "top_k": rollout.get("top_k", 0),
            "top_p": rollout.get("top_p", 1.0),
            "max_new_tokens": self.config["evaluation"]["max_response_tokens"],
        }

    def folders(self) -> dict[str, Path]:
        """Where the run's assets lie."""
        return {asset: Path(self.record.stages[asset].folder) for asset in self.manifests}

    def ancestors(self) -> dict[str, Manifest]:
        """The manifests of all it descends from, as far as the run has them, itself the last."""
        by_fingerprint = {m.fingerprint: name for name, m in self.manifests.items()}
        wanted, found = [self.asset], set()
        while wanted:
            asset = wanted.pop()
            found.add(asset)
            parents = (p.fingerprint for p in self.manifests[asset].parents.values())
            names = (by_fingerprint[parent] for parent in parents if parent in by_fingerprint)
            wanted += [name for name in names if name not in found]
        return {asset: manifest for asset, manifest in self.manifests.items() if asset in found}


def find_exported(run: Path, asset: str) -> Exported:
    """The run's model of that name.

    Raises:
        UserError: the run has no such asset, has not made it yet, or it is no model of its own.
    """
    record = read_run(run)
    stage = record.stages.get(asset)
    if stage is None:
        do = nearest(asset, record.stages)
        raise UserError(f"the run {record.run} has no {asset}", got=f"--asset {asset}", do=do)
    if stage.status not in READY:
        raise UserError(
            f"the run {record.run} has not made its {asset} yet",
            got=", ".join(f"{a} {s.status}" for a, s in record.stages.items()),
            do="finish it: run its command again",
        )
    artifact = read_artifact(Path(stage.folder))
    check_sizes(artifact)
    _check_one_model(artifact)
    return Exported(
        run=run,
        record=record,
        config=read_config(run),
        manifests=load_manifests(record),
        asset=asset,
        artifact=artifact,
    )


def _check_one_model(artifact: Artifact) -> None:
    asset, model = artifact.manifest.kind, artifact.folder / "model"
    if (artifact.folder / BEST_OF_N).is_file():
        raise UserError(
            "a best-of-n policy is no model of its own",
            got="the SFT policy, and a reward model that chooses among its responses",
            do="export both: --asset sft, and --asset reward_model",
        )
    if (model / ENSEMBLE).is_file():
        members = ", ".join(sorted(path.name for path in model.glob("member_*")))
        raise UserError(
            "an ensemble of reward models is no model of its own",
            got=f"{members} in {model}",
            do="each of these folders opens with AutoModelForSequenceClassification as it is",
        )
    if not (model / "config.json").is_file():
        raise UserError(
            f"{asset} is no model", got=str(artifact.folder), do="--asset policy, for one"
        )


def base_name(exported: Exported, named: str | None) -> str:
    """The base model as a reader can open it: as told, as configured, or the folder of our own."""
    base = exported.config["base"]
    if named or (base["kind"] in ("folder", "hub") and base["path"]):
        return str(named or base["path"])
    return str(Path(exported.record.stages["base"].folder) / "model")


def hub_name(base: str) -> str | None:
    """The base's name on the hub; None of a folder."""
    from huggingface_hub.errors import HFValidationError
    from huggingface_hub.utils._validators import validate_repo_id

    if Path(base).exists():
        return None
    try:
        validate_repo_id(base)
    except HFValidationError:
        return None
    return base


def license_of(base: str) -> str | None:
    """What the model card in the base's folder says, if there is one."""
    from huggingface_hub import ModelCard

    card = Path(base) / "README.md"
    if not card.is_file():
        return None
    said: str | None = ModelCard.load(card).data.get("license")
    return said
