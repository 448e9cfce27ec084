"""What a person sees while a run goes: the graph with live states, a bar a stage, its figures.

On a terminal one picture is drawn again and again; elsewhere (a file, a pipe) one line is written
at every change of a stage's state.
"""

import json
import time
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from types import TracebackType
from typing import IO, Any, Protocol, Self, TextIO

from rich.console import Console, Group, RenderableType
from rich.live import Live
from rich.progress_bar import ProgressBar
from rich.table import Table
from rich.text import Text

from pipeline.executors.protocol import StageState, Status

SHOWN_FIGURES = 4
PLAIN_WIDTH, BAR_WIDTH = 160, 24
LOOK = {
    Status.WAITING: ("·", "dim"),
    Status.RUNNING: ("▶", "bold yellow"),
    Status.CACHED: ("=", "cyan"),
    Status.GIVEN: ("+", "cyan"),
    Status.DONE: ("✓", "green"),
    Status.FAILED: ("✗", "bold red"),
    Status.INTERRUPTED: ("‖", "magenta"),
}
Reads = Mapping[str, Iterable[str]]


class Progress(Protocol):
    """Shows the states of all stages; called as often as the driver likes."""

    def update(self, states: Mapping[str, StageState]) -> None:
        """Show these states."""

    def __enter__(self) -> Self: ...

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None: ...


def console(stream: TextIO | None = None) -> Console:
    """Rich's console; text that does not go to a terminal is not wrapped at 80 columns."""
    found = Console(file=stream, highlight=False)
    return found if found.is_terminal else Console(file=stream, highlight=False, width=PLAIN_WIDTH)


def open_progress(reads: Reads, screen: Console) -> Progress:
    """A live picture on a terminal, lines elsewhere. reads: asset -> the assets it is made from."""
    return LiveProgress(reads, screen) if screen.is_terminal else PlainProgress(screen.file)


class PlainProgress:
    """One line at every change of a state: seconds since the start, stage, state, why."""

    def __init__(self, stream: IO[str]) -> None:
        self._stream, self._began = stream, time.time()
        self._last: dict[str, tuple[Status, str]] = {}

    def update(self, states: Mapping[str, StageState]) -> None:
        """Write what changed."""
        for asset, state in states.items():
            now = state.status, state.note
            first_wait = asset not in self._last and state.status is Status.WAITING
            if self._last.get(asset) != now and not first_wait:
                self._stream.write(f"{time.time() - self._began:7.1f}s  {_line(state)}\n")
            self._last[asset] = now
        self._stream.flush()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put back."""


def _line(state: StageState) -> str:
    took = _took(state) if state.status is Status.DONE else ""
    said = next((text for text in (state.error, took, state.note) if text), "")
    return f"{state.asset:15} {state.status.value:11} {said}".rstrip()


class LiveProgress:
    """The graph and a table of the stages, drawn four times a second by a thread of its own.

    So bars move although a stage of the local executor keeps the driver's thread busy.
    """

    def __init__(self, reads: Reads, console: Console) -> None:
        self._states: Mapping[str, StageState] = {}
        draw = partial(self._draw, reads)
        self._live = Live(console=console, refresh_per_second=4, get_renderable=draw)

    def update(self, states: Mapping[str, StageState]) -> None:
        """Draw these states from now on."""
        self._states = states

    def _draw(self, reads: Reads) -> RenderableType:
        return picture(self._states, reads)

    def __enter__(self) -> Self:
        self._live.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._live.stop()


def picture(states: Mapping[str, StageState], reads: Reads) -> RenderableType:
    """The graph on one line, and below it a row a stage."""
    table = Table(box=None, padding=(0, 2, 0, 0), show_header=False)
    for width in (None, None, BAR_WIDTH, None):
        table.add_column(min_width=width)
    for asset, state in states.items():
        icon, style = LOOK[state.status]
        table.add_row(
            Text(f"{icon} {asset}", style=style),
            Text(f"← {', '.join(reads[asset])}" if reads[asset] else "", style="dim"),
            *_details(state),
        )
    statuses = {asset: state.status for asset, state in states.items()}
    shown = {asset: reads[asset] for asset in states}
    return Group(graph_line(statuses, shown), Text(), table)


def graph_line(statuses: Mapping[str, Status], reads: Reads) -> Text:
    """The assets by their distance from the data, each in the look of its state."""
    line = Text()
    for number, level in enumerate(levels(reads)):
        line.append(" ─► " if number else "", style="dim")
        for place, asset in enumerate(level):
            line.append(" · " if place else "", style="dim")
            line.append(asset, style=LOOK[statuses[asset]][1])
    return line


def levels(reads: Reads) -> list[list[str]]:
    """Assets in groups: each stands one behind the latest of those it reads. Parents come first."""
    depth: dict[str, int] = {}
    for asset, parents in reads.items():
        depth[asset] = max((depth[parent] + 1 for parent in parents if parent in depth), default=0)
    return [
        [asset for asset in reads if depth[asset] == level]
        for level in range(max(depth.values(), default=-1) + 1)
    ]


def _details(state: StageState) -> tuple[RenderableType, Text]:
    """Bar and figures of a running stage, time and last figures of one that is there, else why."""
    bar = read_bar(state.journal)
    if state.status is Status.RUNNING and bar:
        share = ProgressBar(total=max(bar["total"], 1), completed=bar["done"], width=BAR_WIDTH)
        done = f"{bar['done']}/{bar['total']} {bar['unit']}  {_took(state)}  "
        return share, Text(done + _figures(bar))
    said = state.error or (_figures(bar) if bar and state.status.is_final else "") or state.note
    took = _took(state) or (state.note if state.status is Status.CACHED else "")
    return Text(took), Text(said.splitlines()[0] if said != took and said else "", style="dim")


def _figures(bar: Mapping[str, Any]) -> str:
    shown = list(bar["figures"].items())[:SHOWN_FIGURES]
    return "  ".join(f"{name} {value:.4g}" for name, value in shown)


def _took(state: StageState) -> str:
    if state.started is None:
        return ""
    return duration((state.ended or time.time()) - state.started)


def duration(seconds: float) -> str:
    """Seconds as people read them: 7.3 s, 4 min 05 s."""
    if seconds < 60:
        return f"{seconds:.1f} s"
    minutes, rest = divmod(round(seconds), 60)
    return f"{minutes} min {rest:02d} s"


def read_bar(journal: Path) -> dict[str, Any] | None:
    """The stage's own `progress.json`; None before it has begun, or once the journal moved."""
    try:
        bar: dict[str, Any] = json.loads((journal / "progress.json").read_text())
    except (OSError, ValueError):
        return None
    return bar
