"""`show RUN`: its stages, figures, departures from the paper and lineage; `--json` for programs."""

import json
import sys
from argparse import ArgumentParser
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.commands.runs import run_state
from pipeline.executors.protocol import Status
from pipeline.manifest import Manifest
from pipeline.progress import LOOK, console, duration
from pipeline.reporting.data import final_figures, load_manifests
from pipeline.runs import find_run, read_config
from pipeline.summary import RunRecord, read_run


def main(arguments: Sequence[str]) -> int:
    """Print one run."""
    parser = ArgumentParser(prog="python -m pipeline show", description=__doc__)
    parser.add_argument("run", metavar="RUN", help="its id, the beginning of its id, or its folder")
    parser.add_argument("--json", action="store_true", help="everything as one JSON object")
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    asked = parser.parse_args(arguments)
    folder = find_run(asked.run, asked.runs_dir)
    record = read_run(folder)
    manifests = load_manifests(record)
    if asked.json:
        json.dump(_everything(folder, record, manifests), sys.stdout, indent=2)
        sys.stdout.write("\n")
    else:
        _print(folder, record, manifests, console())
    return 0


def _everything(folder: Path, record: RunRecord, manifests: dict[str, Manifest]) -> dict[str, Any]:
    return {
        **asdict(record),
        "folder": str(folder.absolute()),
        "status": run_state(folder, record.status),
        "config": read_config(folder),
        "figures": final_figures(record, manifests),
        "manifests": {asset: asdict(manifest) for asset, manifest in manifests.items()},
    }


def _print(
    folder: Path, record: RunRecord, manifests: dict[str, Manifest], screen: Console
) -> None:
    screen.print(Text(record.run, style="bold"), run_state(folder, record.status))
    screen.print(f"command  {record.command}", f"folder   {folder.absolute()}", sep="\n")
    screen.print(f"config   {folder.absolute() / 'config.yaml'}\n")
    screen.print(_stage_table(record, manifests), Text())
    screen.print(
        _pairs("figure", {k: _short(v) for k, v in final_figures(record, manifests).items()})
    )
    changes = {key: f"{default} -> {here}" for key, (default, here) in record.departures.items()}
    screen.print(Text(), _pairs("departs from the paper", changes))


def _stage_table(record: RunRecord, manifests: dict[str, Manifest]) -> Table:
    """Fingerprint, state in this run, the time it took to make, its lineage, and where it lies."""
    table = _table("stage", "state", "made in", "fingerprint", "made from", "folder")
    for asset, stage in record.stages.items():
        manifest = manifests.get(asset)
        parents = manifest.parents if manifest else {}
        lineage = ", ".join(f"{p.asset}:{p.fingerprint[:8]}" for p in parents.values())
        took = duration(manifest.time.wall_s) if manifest else ""
        state = Text(stage.status.value, style=LOOK[Status(stage.status)][1])
        table.add_row(asset, state, took, stage.fingerprint[:8], lineage, stage.folder)
    return table


def _pairs(heading: str, values: dict[str, str]) -> Table:
    table = _table(heading, "")
    for name, value in values.items():
        table.add_row(name, value)
    return table


def _table(*headings: str) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in headings:
        table.add_column(heading, overflow="fold")
    return table


def _short(value: Any) -> str:
    if isinstance(value, float):
        return f"{value:,.0f}" if value.is_integer() else f"{value:.4g}"
    return str(value)
