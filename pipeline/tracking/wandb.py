"""Weights & Biases: one W&B run a pipeline run, a resumed pipeline continues it.

Every stage has its own step axis (`sft/step` for `sft/...`). W&B's inner step is the run's own
index, handed over with each record: it grows over all tries of a run, so that the parts an offline
run leaves (a folder a try) sync one after another without overlap. Artifacts are references:
nothing is uploaded but the manifest; the parents' fingerprints are in the metadata.
"""

import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from pipeline.tracking.config import TrackingConfig, WandbMode
from pipeline.tracking.interface import LoggedArtifact, LoggedStep, LoggedTable


class WandbTracker:
    """Feeds an open W&B run. `store` is wandb's public API where there is one to ask (online)."""

    def __init__(self, run: Any, store: Any = None) -> None:
        self._run, self._store = run, store
        self._stages: set[str] = set()

    def log(self, record: LoggedStep) -> None:
        """Show figures under `stage/group/name` along the stage's own step."""
        self._log(record.stage, record.step, record.index, record.values)

    def table(self, record: LoggedTable) -> None:
        """Show rows as a W&B table; the columns are the keys of the rows in order of appearance."""
        import wandb

        columns = list(dict.fromkeys(key for row in record.rows for key in row))
        cells = [[row.get(column) for column in columns] for row in record.rows]
        table = wandb.Table(columns=columns, data=cells, allow_mixed_types=True)
        self._log(record.stage, record.step, record.index, {record.name: table})

    def artifact(self, artifact: LoggedArtifact) -> None:
        """Link an artifact from the store as an input, or log one this run made as an output."""
        name = f"{artifact.asset}:{artifact.fingerprint[:16]}"
        if not artifact.made_here and self._is_known(name):
            self._run.use_artifact(name)
        else:
            self._log_artifact(artifact)

    def close(self, summary: Mapping[str, Any]) -> None:
        """Write the summary and end the W&B run; one without a summary is marked as failed."""
        self._run.summary.update(dict(summary))
        self._run.finish(exit_code=0 if summary else 1)

    def _is_known(self, name: str) -> bool:
        if self._store is None:  # offline, use_artifact raises
            return False
        return bool(self._store.artifact_exists(f"{self._run.entity}/{self._run.project}/{name}"))

    def _log_artifact(self, artifact: LoggedArtifact) -> None:
        import wandb

        metadata = {
            "fingerprint": artifact.fingerprint,
            "parents": dict(artifact.parents),
            "metrics": dict(artifact.metrics),
        }
        entry = wandb.Artifact(artifact.asset, type=artifact.asset, metadata=metadata)
        entry.add_file(str(artifact.folder / "manifest.json"))
        entry.add_reference(artifact.folder.resolve().as_uri(), name="files", checksum=False)
        self._run.log_artifact(entry, aliases=[artifact.fingerprint[:16]])

    def _log(self, stage: str, step: int, index: int, values: Mapping[str, Any]) -> None:
        axis = f"{stage}/step"
        if stage not in self._stages:
            self._run.define_metric(axis, hidden=True)
            self._run.define_metric(f"{stage}/*", step_metric=axis)
            self._stages.add(stage)
        named = {f"{stage}/{name}": value for name, value in values.items()}
        self._run.log({axis: step, **named}, step=index)


def open_wandb(
    config: TrackingConfig, *, run: str, id: str, folder: Path, resolved: Mapping[str, Any]
) -> WandbTracker:
    """Open or continue the W&B run with this id. Keys come from W&B's own login, never from us."""
    import wandb

    wandb.setup(wandb.Settings(silent=True))
    mode = _mode(config.wandb)
    opened = wandb.init(
        project=config.project,
        id=id,
        name=run,
        dir=folder,
        config=dict(resolved),
        mode=mode,
        resume="allow",
        settings=wandb.Settings(
            silent=True,
            console="off",
            disable_git=True,
            save_code=False,
            x_disable_meta=True,
            x_disable_stats=True,
        ),
    )
    return WandbTracker(opened, wandb.Api() if mode == "online" else None)


def _mode(chosen: WandbMode) -> Any:
    """What `auto` means: W&B's own environment variable, else online for who is logged in."""
    if chosen is not WandbMode.AUTO:
        return chosen.value
    return os.environ.get("WANDB_MODE") or ("online" if _is_logged_in() else "offline")


def _is_logged_in() -> bool:
    """Whether there are credentials and the server takes them; it never prompts."""
    import wandb

    try:
        return wandb.login(prompt=False)
    except wandb.errors.AuthenticationError:  # no network, or a key that is no longer good
        return False
