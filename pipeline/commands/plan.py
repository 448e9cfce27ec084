"""`plan`: the graph with hit, miss and why; the batch arithmetic; what departs from the papers."""

from collections.abc import Collection, Sequence

from omegaconf import DictConfig
from rich.console import Console
from rich.table import Table
from rich.text import Text

from pipeline.arithmetic import batch_arithmetic, departures
from pipeline.artifacts import Store
from pipeline.commandline import with_config
from pipeline.config import PipelineConfig, run_folder, selection, stage_configs
from pipeline.errors import raise_faults
from pipeline.executors.protocol import Status
from pipeline.planning import Action, Plan, make_plan
from pipeline.preflight import disk_estimate
from pipeline.progress import LOOK, console, graph_line
from pipeline.workflow import workflow

SEEN_AS = {
    Action.RUN: Status.RUNNING,
    Action.CACHED: Status.CACHED,
    Action.GIVEN: Status.GIVEN,
}


def main(arguments: Sequence[str]) -> int:
    """Print what `run` with the same arguments would do."""
    with_config(arguments, show_plan)
    return 0


def show_plan(config: PipelineConfig, _: DictConfig) -> None:
    """Print the plan.

    Raises:
        UserError: what would keep it from running.
    """
    graph = workflow(stage_configs(config))
    plan, faults = make_plan(graph, selection(config), Store(config.store), config.runs_dir)
    screen = console()
    screen.print(f"run {run_folder(config)}, store {config.store}\n")
    raise_faults(faults)
    print_graph(plan, screen)
    screen.print(arithmetic_table(config, plan.stages))
    screen.print(_departures_table(config))
    print_cautions(config, screen)
    screen.print(f"disk: about {disk_estimate(plan) / 1e9:.2f} GB while it runs")


def print_cautions(config: PipelineConfig, screen: Console) -> None:
    """What is allowed in the stages' settings and seldom wise."""
    for stage in stage_configs(config).values():
        for caution in stage.cautions():
            screen.print(Text(f"caution: {caution}", style="yellow"))


def print_graph(plan: Plan, screen: Console) -> None:
    """The graph by levels, then a row an asset: what happens to it and why."""
    reads = {asset: list(p.stage.reads.values()) for asset, p in plan.stages.items()}
    statuses = {asset: SEEN_AS[p.action] for asset, p in plan.stages.items()}
    screen.print(graph_line(statuses, reads), Text())
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    for heading in ("asset", "action", "reads", "fingerprint", "why"):
        table.add_column(heading, overflow="fold")
    for asset, planned in plan.stages.items():
        style = LOOK[SEEN_AS[planned.action]][1]
        action = Text(planned.action.value, style=style)
        read = ", ".join(dict.fromkeys(reads[asset]))
        table.add_row(asset, action, read, planned.fingerprint[:8], planned.why)
    screen.print(table, Text())


def arithmetic_table(config: PipelineConfig, assets: Collection[str]) -> Table:
    """Batches, steps and processes of these assets' stages."""
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("batch arithmetic")
    table.add_column("")
    table.add_column("", justify="right")
    table.add_column("", style="dim")
    planned = {a: rows for a, rows in batch_arithmetic(config).items() if a in assets}
    for stage, quantities in planned.items():
        for place, quantity in enumerate(quantities):
            name = "" if place else stage
            table.add_row(name, quantity.name, f"{quantity.value:,}", quantity.how)
    table.add_row()
    return table


def _departures_table(config: PipelineConfig) -> Table:
    table = Table(box=None, padding=(0, 2, 0, 0), header_style="bold")
    table.add_column("departs from the default (the paper's)")
    table.add_column("default", justify="right")
    table.add_column("here", justify="right")
    for key, (default, value) in departures(config).items():
        table.add_row(key, str(default), str(value))
    table.add_row()
    return table
