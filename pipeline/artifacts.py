"""The content-addressed store: a result lies under the hash of everything that made it.

    in the store's folder:
    <asset>/<fingerprint16>/    manifest.json, the stage's files, journal/, log.txt
    work/<fingerprint16>/       out/ checkpoints/ journal/ log.txt of a stage under way
    locks/<fingerprint16>.lock  held by the process that works in that folder
    cache/tokens/               text tables as token ids (`stages.lm.token_cache`)

Publishing is a rename after everything was synced, the manifest last: a half-written artifact is
never seen. All of a store lies in one file system.
"""

import os
import shutil
from collections.abc import Iterable, Iterator
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from pipeline.locks import is_free
from pipeline.manifest import (
    MANIFEST_FILE,
    Artifact,
    Manifest,
    check_sizes,
    read_artifact,
    write_manifest,
)
from stages.contracts import UserError

KEY_DIGITS = 16
RESERVED = ("work", "locks", "cache")


@dataclass(frozen=True)
class WorkFolder:
    """Where a stage works until its result is published; a later try finds its checkpoints."""

    folder: Path

    @property
    def out(self) -> Path:
        """What becomes the artifact."""
        return self.folder / "out"

    @property
    def checkpoints(self) -> Path:
        """The stage's own checkpoints."""
        return self.folder / "checkpoints"

    @property
    def journal(self) -> Path:
        """Curves, tables and the progress bar."""
        return self.folder / "journal"

    @property
    def log(self) -> Path:
        """What the stage printed, over all tries."""
        return self.folder / "log.txt"

    def begin(self) -> None:
        """Drop a half-written result of an earlier try, keep its checkpoints."""
        shutil.rmtree(self.out, ignore_errors=True)
        for folder in (self.out, self.checkpoints, self.journal):
            folder.mkdir(parents=True, exist_ok=True)

    def collect(self) -> None:
        """Copy journal and log beside the stage's files; the originals stay until the end."""
        shutil.copytree(self.journal, self.out / "journal")
        if self.log.exists():
            shutil.copyfile(self.log, self.out / "log.txt")


class Store:
    """Artifacts under one root folder."""

    def __init__(self, root: Path) -> None:
        self.root = root.absolute()

    @property
    def cache(self) -> Path:
        """What stages share beside artifacts; all of it can be made again."""
        return self.root / "cache"

    def folder(self, asset: str, fingerprint: str) -> Path:
        """Where the artifact lies, once there is one."""
        return self.root / asset / fingerprint[:KEY_DIGITS]

    def work(self, fingerprint: str) -> WorkFolder:
        """Where it is made."""
        return WorkFolder(self.root / "work" / fingerprint[:KEY_DIGITS])

    def lock_path(self, fingerprint: str) -> Path:
        """Name of the lock on its work folder."""
        return self.root / "locks" / fingerprint[:KEY_DIGITS]

    def has(self, asset: str, fingerprint: str) -> bool:
        """Whether it was published; nothing is checked."""
        return (self.folder(asset, fingerprint) / MANIFEST_FILE).is_file()

    def find(self, asset: str, fingerprint: str) -> Artifact | None:
        """The artifact, sizes of all its files checked; None if it was never published.

        Raises:
            UserError: a file is missing or truncated.
        """
        if not self.has(asset, fingerprint):
            return None
        artifact = read_artifact(self.folder(asset, fingerprint))
        check_sizes(artifact)
        return artifact

    def newest(self, asset: str, stage: str) -> Artifact | None:
        """The artifact of this kind that was published last, by the same stage if there is one."""
        manifests = list((self.root / asset).glob(f"*/{MANIFEST_FILE}"))
        manifests.sort(key=lambda path: path.stat().st_mtime, reverse=True)
        artifacts = list(_readable(path.parent for path in manifests))
        same_stage = [found for found in artifacts if found.manifest.parts.stage == stage]
        return next(iter(same_stage + artifacts), None)

    def publish(self, work: WorkFolder, manifest: Manifest) -> Path:
        """Make `work.out` the artifact, replacing an older one of the same name; ends the work."""
        target = self.folder(manifest.kind, manifest.fingerprint)
        target.parent.mkdir(parents=True, exist_ok=True)
        write_manifest(work.out, manifest)
        _sync_folder(work.out)
        if target.exists():
            os.rename(target, work.folder / "replaced")
        os.rename(work.out, target)
        _sync_folder(target.parent)
        shutil.rmtree(work.folder)
        return target

    def artifacts(self) -> Iterator[Artifact]:
        """Everything that was published and can be read."""
        yield from _readable(self._published())

    def _published(self) -> list[Path]:
        manifests = sorted(self.root.glob(f"*/*/{MANIFEST_FILE}"))
        return [path.parent for path in manifests if path.parent.parent.name not in RESERVED]

    def lineage(self, artifact: Artifact) -> dict[str, Artifact]:
        """The artifact and all it descends from, by fingerprint, as far as the store has them."""
        found = {artifact.manifest.fingerprint: artifact}
        for parent in artifact.manifest.parents.values():
            if parent.fingerprint in found or not self.has(parent.asset, parent.fingerprint):
                continue
            found |= self.lineage(read_artifact(self.folder(parent.asset, parent.fingerprint)))
        return found

    def unneeded(self, kept: Iterable[str]) -> list[Path]:
        """Folders of artifacts and work under no `kept` fingerprint, where nobody works."""
        keys = {fingerprint[:KEY_DIGITS] for fingerprint in kept}
        works = [path for path in (self.root / "work").glob("*") if path.is_dir()]
        folders = self._published() + works
        return [path for path in folders if path.name not in keys and self._idle(path)]

    def _idle(self, folder: Path) -> bool:
        return is_free(self.lock_path(folder.name))


def _readable(folders: Iterable[Path]) -> Iterator[Artifact]:
    """Leaves out what has a broken manifest: whoever needs that artifact gets the error."""
    for folder in folders:
        with suppress(UserError):
            yield read_artifact(folder)


def folder_size(folder: Path) -> int:
    """Bytes of all files below a folder, or of a file."""
    files = folder.rglob("*") if folder.is_dir() else [folder]
    return sum(path.stat().st_size for path in files if path.is_file())


def _sync_folder(folder: Path) -> None:
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
