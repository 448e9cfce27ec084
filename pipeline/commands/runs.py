"""`runs`: every run with its state, when it began and its headline figures."""

import json
import time
from argparse import ArgumentParser
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rich.table import Table

from pipeline.executors.protocol import Status
from pipeline.progress import console, duration
from pipeline.runs import all_runs, is_at_work
from pipeline.summary import SUMMARY_FILE, read_run

HEADLINES = {
    "win rate": ("evaluation", "policy_win_rate_vs_sft"),
    "gold": ("evaluation", "policy_gold_mean"),
    "SFT gold": ("evaluation", "sft_gold_mean"),
    "KL": ("evaluation", "policy_kl"),
    "RM accuracy": ("reward_model", "accuracy_gold"),
}


def main(arguments: Sequence[str]) -> int:
    """Print the table."""
    parser = ArgumentParser(prog="python -m pipeline runs", description=__doc__)
    parser.add_argument("--runs-dir", type=Path, default=Path("runs"))
    runs_dir: Path = parser.parse_args(arguments).runs_dir
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("run", "state", "began", "took", *HEADLINES):
        table.add_column(heading, no_wrap=True)
    for folder in all_runs(runs_dir):
        table.add_row(*_row(folder))
    screen = console()
    screen.print(table if table.row_count else f"no runs in {runs_dir}")
    return 0


def _row(folder: Path) -> list[str]:
    record = read_run(folder)
    began = time.strftime("%Y-%m-%d %H:%M", time.localtime(record.started))
    path = folder / SUMMARY_FILE
    summary = json.loads(path.read_text()) if path.exists() else {}
    took = duration(summary["wall_s"]) if summary else ""
    figures = [_figure(summary, *names) for names in HEADLINES.values()]
    return [record.run, run_state(folder, record.status), began, took, *figures]


def run_state(folder: Path, status: Status) -> str:
    """The run's state: one that says it runs while nobody works in its folder was killed."""
    if status is Status.RUNNING and not is_at_work(folder):
        return "killed"
    return status.value


def _figure(summary: dict[str, Any], group: str, name: str) -> str:
    value = summary.get(group, {}).get(name)
    return "" if value is None else f"{value:.3f}"
