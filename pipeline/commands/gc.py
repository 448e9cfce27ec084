"""`gc`: free artifacts, work folders and cached tokens that no kept run needs.

A run is kept by its folder.
"""

import shutil
from argparse import ArgumentParser
from collections.abc import Iterator, Sequence
from pathlib import Path

from rich.table import Table

from pipeline.artifacts import Store, folder_size
from pipeline.progress import console
from pipeline.runs import kept_runs
from pipeline.summary import read_run
from stages.lm.token_cache import entries_of_other_tables

MB = 1e6


def main(arguments: Sequence[str]) -> int:
    """List what no run needs; delete it unless `--dry-run`."""
    parser = ArgumentParser(prog="python -m pipeline gc", description=__doc__)
    parser.add_argument("--dry-run", action="store_true", help="only list")
    parser.add_argument("--store", type=Path, default=Path("artifacts"))
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    store = Store(asked.store)
    needed = set(needed_fingerprints(store, asked.runs_dir))
    unneeded = store.unneeded(needed) + unneeded_tokens(store, needed)
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("folder")
    table.add_column("MB", justify="right")
    sizes = {folder: folder_size(folder) for folder in unneeded}
    for folder, size in sizes.items():
        table.add_row(str(folder), f"{size / MB:.1f}")
        if not asked.dry_run:
            _delete(folder)
    done = "would free" if asked.dry_run else "freed"
    screen = console()
    screen.print(*([table] if sizes else []), f"{done} {sum(sizes.values()) / MB:.1f} MB")
    return 0


def unneeded_tokens(store: Store, needed: set[str]) -> list[Path]:
    """Cached token ids of text tables that no kept artifact holds; they can be made again."""
    kept = [
        file.sha256
        for artifact in store.artifacts()
        if artifact.manifest.fingerprint in needed
        for file in artifact.manifest.files.values()
    ]
    return entries_of_other_tables(store.cache, kept)


def _delete(path: Path) -> None:
    if path.is_dir():
        shutil.rmtree(path)
    else:
        path.unlink()


def needed_fingerprints(store: Store, runs_dir: Path) -> Iterator[str]:
    """Fingerprints of every kept run's assets and of all they descend from."""
    for folder in kept_runs(store.root, runs_dir):
        for stage in read_run(folder).stages.values():
            yield stage.fingerprint
    known = {artifact.manifest.fingerprint: artifact for artifact in store.artifacts()}
    for folder in kept_runs(store.root, runs_dir):
        for stage in read_run(folder).stages.values():
            if stage.fingerprint in known:
                yield from store.lineage(known[stage.fingerprint])
