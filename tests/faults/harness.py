"""Kill one process of a run at a random moment, let the run end, compare with one nobody killed."""

import json
import shutil
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import asdict
from pathlib import Path
from typing import Any

from tests.faults.nodes import Nodes
from tests.faults.plan import SCENARIOS, Kill, Scenario
from tests.faults.runs import (
    difference,
    finish,
    is_saving,
    iterations_done,
    oracle,
    prepare,
    start,
)
from tests.faults.victims import Ranks, kill, wait_until

LEDGER = "ledger.jsonl"
TOLERANCE = 1e-6  # of a weight; the order of sums changes less (docs/distributed.md)


def survive(trial: Kill, folder: Path) -> dict[str, Any]:
    """One trial in `folder`; the line for the ledger."""
    scenario, begun = SCENARIOS[trial.scenario], time.monotonic()
    prepared = prepare(folder / "prepared")
    whole = oracle(folder / f"whole_{trial.scenario}", prepared, scenario)
    own = folder / f"kill_{trial.number}"
    shutil.rmtree(own, ignore_errors=True)
    shutil.copytree(prepared, own / "store")
    seen = _kill_one(trial, scenario, own)
    found = difference(own, whole)
    assert found <= TOLERANCE, f"weights differ by {found:.1e}"
    shutil.rmtree(own)
    took = round(time.monotonic() - begun, 1)
    return {**asdict(trial), "seen": seen, "difference": found, "survived": True, "s": took}


def _kill_one(trial: Kill, scenario: Scenario, own: Path) -> dict[str, Any]:
    """Start, kill, see it through; what was going on at the kill."""
    with _nodes(scenario) as nodes:
        overrides = ("to_stage=policy", *scenario.overrides, *nodes.overrides)
        process = start(own, *overrides)
        try:
            seen = _strike(trial, scenario, own, process, nodes)
            if trial.victim == "driver":
                process.wait()
                process = start(own, *overrides)
            finish(own, process)
        finally:
            process.kill()
            process.wait()
    return seen


def _strike(
    trial: Kill, scenario: Scenario, own: Path, process: subprocess.Popen[bytes], nodes: Nodes
) -> dict[str, Any]:
    """Wait for the moment, then kill."""
    ranks = Ranks(lambda: [process.pid, *nodes.raylets()])

    def all_there() -> bool:
        ranks.look()
        return len(ranks.pids) == scenario.ranks + 1  # and the stage's task

    def due() -> bool:
        half_written = trial.phase != "checkpoint" or is_saving(own)
        return ranks.phase() == trial.phase and half_written

    def alive() -> bool:
        return process.poll() is None

    wait_until(all_there, alive)
    wait_until(lambda: iterations_done(own) >= trial.iteration, alive)
    wait_until(due, alive)
    time.sleep(trial.delay_s)
    seen = {"phase": ranks.phase(), "iteration": iterations_done(own)}
    if trial.victim == "node":
        nodes.kill_the_one_with(ranks.pids["policy[0]"])
    else:
        kill({**ranks.pids, "driver": process.pid}[trial.victim])
    return seen


@contextmanager
def _nodes(scenario: Scenario) -> Iterator[Nodes]:
    nodes = Nodes(scenario.nodes)
    try:
        yield nodes
    finally:
        nodes.end()


def ledger(folder: Path) -> dict[int, dict[str, Any]]:
    """The last line of each kill."""
    path = folder / LEDGER
    lines = path.read_text().splitlines() if path.exists() else []
    return {line["number"]: line for line in map(json.loads, lines)}


def write_line(folder: Path, line: dict[str, Any]) -> None:
    """Add to the ledger."""
    folder.mkdir(parents=True, exist_ok=True)
    with (folder / LEDGER).open("a") as file:
        file.write(json.dumps(line) + "\n")
