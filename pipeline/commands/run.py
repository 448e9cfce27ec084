"""`run`: check everything, execute what is missing, record it, and say what was reached."""

import os
import shlex
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from omegaconf import DictConfig, OmegaConf
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.arithmetic import departures
from pipeline.artifacts import Store
from pipeline.cluster import cluster_faults
from pipeline.commandline import with_config
from pipeline.commands.plan import arithmetic_table, print_cautions
from pipeline.config import PipelineConfig, run_folder, selection, stage_configs
from pipeline.errors import raise_faults
from pipeline.executors import executor_for
from pipeline.executors.output import terminal
from pipeline.executors.protocol import Status
from pipeline.fingerprint import resolved
from pipeline.measuring import Meter
from pipeline.planning import Plan, make_plan
from pipeline.preflight import run_faults
from pipeline.progress import console, duration, open_progress
from pipeline.reporting.data import final_figures, load_manifests
from pipeline.reporting.headline import headlines
from pipeline.reporting.outputs import REPORT_FILE, write_outputs
from pipeline.runs import CONFIG_FILE, locked, remember_run
from pipeline.scheduler import Run
from pipeline.summary import SUMMARY_FILE, RunRecord, write_run, write_summary
from pipeline.tracking.tracking import Tracking, open_tracking
from pipeline.watching import Watcher, measure
from pipeline.workflow import workflow
from stages.contracts import InterruptedRunError


def main(arguments: Sequence[str]) -> int:
    """Run the workflow; in a sweep (`-m`) once a combination."""
    command = shlex.join(["python", "-m", "pipeline", "run", *arguments])
    with Meter() as meter:

        def run_one(config: PipelineConfig, composed: DictConfig) -> None:
            run_workflow(config, composed, command, meter)
            meter.restart()

        with_config(arguments, run_one)
    return 0


def run_workflow(config: PipelineConfig, composed: DictConfig, command: str, meter: Meter) -> None:
    """One run from plan to report.

    Raises:
        UserError: what would keep it from running, before any work; or what a stage found.
        InterruptedRunError: stopped by a signal or the time limit; the same command continues.
    """
    folder = run_folder(config)
    plan = _checked_plan(config, folder)
    with locked(folder), terminal() as stream:
        _write_config(composed, folder, command)
        remember_run(plan.store.root, folder)
        record = RunRecord(
            run=folder.name, command=command, started=time.time(), departures=departures(config)
        )
        driver = _Driver(config, plan, folder, record, meter, console(stream))
        driver.run()
        driver.say_what_was_reached()


def _checked_plan(config: PipelineConfig, folder: Path) -> Plan:
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), config.runs_dir)
    shapes = [shape for a in plan.to_run for shape in plan.stages[a].stage.config.worker_groups()]
    raise_faults(faults + run_faults(plan, folder) + cluster_faults(config.cluster, shapes))
    return plan


def _write_config(composed: DictConfig, folder: Path, command: str) -> None:
    path = folder / CONFIG_FILE
    scratch = path.with_suffix(".tmp")
    scratch.write_text(f"# {command}\n{OmegaConf.to_yaml(composed, resolve=True)}")
    os.replace(scratch, path)


@dataclass
class _Driver:
    """Carries out one checked plan and keeps the run's folder up to date."""

    config: PipelineConfig
    plan: Plan
    folder: Path
    record: RunRecord
    meter: Meter
    screen: Console

    def run(self) -> None:
        """Execute what is missing; the run's files are written whatever the end."""
        to_run, stages = len(self.plan.to_run), len(self.plan.stages)
        self.screen.print(f"run {self.folder}: {to_run} of {stages} stages to execute")
        print_cautions(self.config, self.screen)
        if "policy" in self.plan.to_run:
            self.screen.print(arithmetic_table(self.config, ["policy"]))
        tracking = self._open_tracking() if to_run else None
        try:
            self._execute(tracking)
        except (InterruptedRunError, KeyboardInterrupt):
            self._end(Status.INTERRUPTED, tracking)
            raise
        except BaseException:
            self._end(Status.FAILED, tracking)
            raise
        self._end(Status.DONE, tracking)

    def _open_tracking(self) -> Tracking:
        return open_tracking(
            self.config.tracking,
            run=self.folder.name,
            folder=self.folder,
            resolved=resolved(self.config),
            fingerprints={asset: p.fingerprint for asset, p in self.plan.stages.items()},
        )

    def _execute(self, tracking: Tracking | None) -> None:
        capture = self.config.executor.capture_output
        run = Run(self.plan, self.folder.name, capture_output=capture)
        reads = {a: list(p.stage.reads.values()) for a, p in self.plan.stages.items()}
        progress = open_progress(reads, self.screen)
        watcher = Watcher(run, self.record, self.folder, self.meter, progress, tracking)
        if not self.plan.to_run:
            watcher.look()
            return
        with executor_for(self.config) as executor:
            if executor.greeting:
                self.screen.print(executor.greeting)
            with watcher:
                run.execute(executor, self.config.executor.time_limit_s)

    def _end(self, status: Status, tracking: Tracking | None) -> None:
        """Write the run's files; what drawing and tracking take is measured too."""
        self.record.status = status
        measure(self.record, self.meter)
        done = status is Status.DONE
        summary = write_outputs(self.folder, self.record) if done else {}
        if tracking:
            tracking.close(summary)
        measure(self.record, self.meter)
        write_run(self.folder, self.record)
        if done:
            write_summary(self.folder, self.record, self._figures())

    def _figures(self) -> dict[str, Any]:
        return final_figures(self.record, load_manifests(self.record))

    def say_what_was_reached(self) -> None:
        """The headline figures, where things lie, and what to do next."""
        table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
        for line in headlines(self._figures()):
            table.add_row(
                line.label, Text(line.value, style="bold"), Text(line.detail, style="dim")
            )
        table.add_row("time", Text(duration(self.record.wall_s), style="bold"))
        table.add_row()
        for what, where in self._places().items():
            table.add_row(what, str(where))
        self.screen.print(Text(), table)

    def _places(self) -> dict[str, str | Path]:
        name = self.folder.name if self.config.run_dir is None else str(self.folder)
        places: dict[str, str | Path] = {
            "report": self.folder / REPORT_FILE,
            "figures": self.folder / SUMMARY_FILE,
        }
        if policy := self.record.stages.get("policy"):
            places["policy"] = Path(policy.folder) / "model"
            places["talk to it"] = f"python -m pipeline chat {name}"
        places["look closer"] = f"python -m pipeline show {name}"
        return places
