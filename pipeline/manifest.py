"""`manifest.json`: what an artifact is, what it was made from, and what its readers may rely on.

It is written last: a folder without a manifest is not an artifact.
"""

import json
import os
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pipeline.fingerprint import Parts, file_digest
from stages.contracts import UserError

MANIFEST_FILE = "manifest.json"
AGREED_FIELDS = ("tokenizer_sha256", "chat_template_sha256", "eos_token_id")


@dataclass(frozen=True, kw_only=True)
class FileRecord:
    """Size in bytes and digest of one file."""

    size: int
    sha256: str


@dataclass(frozen=True, kw_only=True)
class Parent:
    """What a stage read under one keyword."""

    asset: str
    fingerprint: str


@dataclass(frozen=True, kw_only=True)
class Duration:
    """When it was made (seconds since 1970) and what the last try took, in seconds."""

    started: float
    ended: float
    wall_s: float
    cpu_s: float


@dataclass(frozen=True, kw_only=True)
class Manifest:
    """What is known of an artifact.

    kind: the asset's name. parents: by the stage's keyword. parts: code and package versions too.
    config: all of its values. metrics, contract: as `stages.contracts.Report` says. model_sha256:
    of the tensors in `model/`, None without one. files: by path within the artifact.
    """

    kind: str
    fingerprint: str
    parents: dict[str, Parent]
    parts: Parts
    config: dict[str, Any]
    seed: int
    metrics: dict[str, float]
    contract: dict[str, Any]
    time: Duration
    files: dict[str, FileRecord]
    model_sha256: str | None = None

    @property
    def size(self) -> int:
        """Bytes of all files."""
        return sum(file.size for file in self.files.values())

    @property
    def model_size(self) -> int:
        """Bytes of `model/`; 0 without one."""
        return sum(file.size for name, file in self.files.items() if name.startswith("model/"))


@dataclass(frozen=True)
class Artifact:
    """A published result: its folder and its manifest."""

    folder: Path
    manifest: Manifest


def write_manifest(folder: Path, manifest: Manifest) -> None:
    """Write and sync the manifest; the files it names must be on disk already."""
    with (folder / MANIFEST_FILE).open("w") as file:
        json.dump(asdict(manifest), file, indent=2)
        file.flush()
        os.fsync(file.fileno())


def read_artifact(folder: Path) -> Artifact:
    """Open an artifact's folder.

    Raises:
        UserError: there is no manifest, or it cannot be read.
    """
    path = folder / MANIFEST_FILE
    try:
        return Artifact(folder, _parse(json.loads(path.read_text())))
    except OSError:
        raise UserError(
            "this folder is no artifact",
            got=f"no {MANIFEST_FILE} in {folder}",
            do="give a run or a folder that holds a manifest.json",
        ) from None
    except (ValueError, KeyError, TypeError) as error:
        raise UserError(
            f"the manifest {path} cannot be read",
            got=f"{type(error).__name__}: {error}",
            do=f"make it again: force=[{folder.parent.name}]",
        ) from None


def _parse(raw: dict[str, Any]) -> Manifest:
    typed = {
        "parents": {keyword: Parent(**parent) for keyword, parent in raw["parents"].items()},
        "parts": Parts(**raw["parts"]),
        "time": Duration(**raw["time"]),
        "files": {name: FileRecord(**file) for name, file in raw["files"].items()},
    }
    return Manifest(**{**raw, **typed})


def record_files(folder: Path) -> dict[str, FileRecord]:
    """Size and digest of every file below `folder`, synced to disk on the way."""
    records: dict[str, FileRecord] = {}
    for path in sorted(path for path in folder.rglob("*") if path.is_file()):
        with path.open("rb") as file:
            os.fsync(file.fileno())
        size = path.stat().st_size
        records[str(path.relative_to(folder))] = FileRecord(size=size, sha256=file_digest(path))
    return records


def check_sizes(artifact: Artifact) -> None:
    """Refuse an artifact with a missing or truncated file: cheap, done at every lookup."""
    for name, record in artifact.manifest.files.items():
        path = artifact.folder / name
        found = path.stat().st_size if path.is_file() else None
        if found != record.size:
            got = "it is missing" if found is None else f"{found} bytes instead of {record.size}"
            raise _damaged(artifact, path, got)


def check_contents(artifact: Artifact) -> None:
    """Refuse an artifact with a changed file: reads everything, once a run, before it is used."""
    check_sizes(artifact)
    for name, record in artifact.manifest.files.items():
        path = artifact.folder / name
        if file_digest(path) != record.sha256:
            raise _damaged(artifact, path, "its content is not what was written (sha256 differs)")


def _damaged(artifact: Artifact, path: Path, got: str) -> UserError:
    asset = artifact.manifest.kind
    return UserError(
        f"the {asset} artifact is damaged: {path}",
        got=got,
        do=f"make it again with force=[{asset}], or bring another with given.{asset}=RUN_OR_FOLDER",
    )


def disagreements(artifacts: Mapping[str, Artifact]) -> list[UserError]:
    """What artifacts that are read together must agree on and do not; the key is who they are.

    An artifact that says nothing of a field (a table of texts) agrees with all.
    """
    faults = []
    for name in AGREED_FIELDS:
        values = {
            asset: artifact.manifest.contract[name]
            for asset, artifact in artifacts.items()
            if name in artifact.manifest.contract
        }
        if len(set(values.values())) > 1:
            found = sorted(set(values.values()), key=str)
            faults.append(
                UserError(
                    f"the artifacts do not fit together: {name} differs",
                    got="; ".join(_who_has(values, value) for value in found),
                    do="use artifacts that descend from one base model",
                )
            )
    return faults


def _who_has(values: Mapping[str, Any], value: Any) -> str:
    text = str(value) if len(str(value)) <= 12 else f"{str(value)[:8]}..."
    return f"{text} in {', '.join(asset for asset, found in values.items() if found == value)}"
