"""Toy stages for the tests of the workflow: sums of numbers, no torch.

left ──┬─► total ─► evaluation
right ─┘
"""

import os
import signal
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from pipeline.artifacts import Store
from pipeline.executors.local import LocalExecutor
from pipeline.planning import Plan, make_plan
from pipeline.scheduler import Run
from pipeline.selection import Selection
from pipeline.workflow import Graph, Stage
from stages.contracts import (
    Context,
    InterruptedRunError,
    Report,
    StageConfig,
    UserError,
    external_input,
    no_effect,
)


@dataclass(kw_only=True)
class ToyConfig(StageConfig):
    """value: added to the sum. tokenizer: what the contract says. path: a file of the user's."""

    value: float = 1.0
    tokenizer: str = "words"
    path: str | None = external_input(None)
    log_every: int = no_effect(10)


def number(config: ToyConfig, *, out: Path, context: Context) -> Report:
    return _write(config.value, config, out, context)


def another_number(config: ToyConfig, *, out: Path, context: Context) -> Report:
    return _write(config.value, config, out, context)


def total(config: ToyConfig, *, left: Path, right: Path, out: Path, context: Context) -> Report:
    return _write(_read(left) + _read(right) + config.value, config, out, context)


def evaluate(config: ToyConfig, *, total: Path, out: Path, context: Context) -> Report:
    return _write(_read(total), config, out, context)


def fails(config: ToyConfig, *, out: Path, context: Context) -> Report:
    try:
        raise KeyError("the first cause")
    except KeyError as error:
        raise RuntimeError("what came of it") from error


def refuses(config: ToyConfig, *, out: Path, context: Context) -> Report:
    raise UserError("the value is too small", got=str(config.value), do="set it to 2")


def stops_once(config: ToyConfig, *, out: Path, context: Context) -> Report:
    """Waits to be told to stop; the next try finds the checkpoint."""
    checkpoint = context.checkpoints / "step_1"
    if not checkpoint.exists():
        _wait_for(context.should_stop)
        checkpoint.touch()
        raise InterruptedRunError("stopped at step 1")
    return _write(config.value, config, out, context)


def dies_once(config: ToyConfig, *, out: Path, context: Context) -> Report:
    """Writes half a result and a checkpoint and is killed; the next try ends."""
    checkpoint = context.checkpoints / "step_1"
    if not checkpoint.exists():
        (out / "half.txt").write_text("half a res")
        checkpoint.touch()
        os.kill(os.getpid(), signal.SIGKILL)
    return _write(config.value, config, out, context)


def meets(config: ToyConfig, *, out: Path, context: Context) -> Report:
    """Ends only once two processes are in it at the same time."""
    meeting = Path(os.environ["TOY_MEETING"])
    (meeting / str(os.getpid())).touch()
    _wait_for(lambda: len(list(meeting.iterdir())) == 2)
    return _write(config.value, config, out, context)


def _wait_for(condition: Callable[[], bool], timeout_s: float = 60.0) -> None:
    end = time.time() + timeout_s
    while not condition():
        assert time.time() < end, "waited in vain"
        time.sleep(0.02)


def _write(value: float, config: ToyConfig, out: Path, context: Context) -> Report:
    print(f"the value is {value}")
    context.journal.log(1, {"toy/value": value})
    (out / "number.txt").write_text(str(value))
    return Report(metrics={"value": value}, contract={"tokenizer_sha256": config.tokenizer})


def _read(folder: Path) -> float:
    return float((folder / "number.txt").read_text())


def toy_graph(
    makes_left: str = "number", makes_right: str = "number", **configs: ToyConfig
) -> Graph:
    """The graph above, with the functions that make its ends; configs by asset."""
    table = {
        "left": (makes_left, {}),
        "right": (makes_right, {}),
        "total": ("total", {"left": "left", "right": "right"}),
        "evaluation": ("evaluate", {"total": "total"}),
    }
    return {
        asset: Stage(
            function=f"{__name__}:{function}", config=configs.get(asset, ToyConfig()), reads=reads
        )
        for asset, (function, reads) in table.items()
    }


def plan_of(folder: Path, graph: Graph, selection: Selection | None = None) -> Plan:
    """A plan without faults, with the store in `folder`."""
    store = Store(folder / "artifacts")
    plan, faults = make_plan(graph, selection or Selection(), store, folder / "runs")
    assert faults == []
    return plan


def make(folder: Path, graph: Graph, selection: Selection | None = None) -> Run:
    """Plan and execute in this process."""
    run = Run(plan_of(folder, graph, selection), name="toy")
    with LocalExecutor() as executor:
        run.execute(executor)
    return run
