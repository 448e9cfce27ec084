"""Where the boxes and arrows of the workflow's drawing lie. The template draws them.

The longest chain runs down the middle; assets that read nothing stand at its left, above their
first reader, side branches at its right. Arrows that a longer way already implies are left out.
"""

from collections.abc import Mapping
from dataclasses import dataclass

from pipeline.executors.protocol import Status
from pipeline.summary import RunRecord, StageRecord

Inputs = Mapping[str, frozenset[str]]  # asset -> assets it reads

BOX_WIDTH, BOX_HEIGHT, COLUMN_STEP, ROW_STEP, MARGIN = 146, 42, 166, 66, 6
SIGNS = {
    Status.WAITING: "○",
    Status.RUNNING: "▶",
    Status.CACHED: "↺",
    Status.GIVEN: "↓",
    Status.DONE: "✓",
    Status.FAILED: "✕",
    Status.INTERRUPTED: "‖",
}


@dataclass(frozen=True, kw_only=True)
class Box:
    """One asset: its upper left corner in pixels and its texts."""

    asset: str
    status: str
    sign: str
    time: str
    x: int
    y: int


@dataclass(frozen=True, kw_only=True)
class Drawing:
    """Boxes with their size, SVG paths of the arrows, and the picture's size, in pixels."""

    boxes: list[Box]
    arrows: list[str]
    width: int
    height: int
    box_width: int = BOX_WIDTH
    box_height: int = BOX_HEIGHT


def draw_graph(record: RunRecord, times: Mapping[str, str]) -> Drawing:
    """Lay out the stages of a run. times: asset -> what to write below its name."""
    inputs = {
        asset: frozenset(stage.inputs.values()) & set(record.stages)
        for asset, stage in record.stages.items()
    }
    places = _places(inputs)
    left = min((column for _, column in places.values()), default=0)
    boxes = {
        asset: _box(asset, record.stages[asset], times.get(asset, ""), row, column - left)
        for asset, (row, column) in places.items()
    }
    arrows = [
        _arrow(boxes[source], boxes[target])
        for target, sources in direct_inputs(inputs).items()
        for source in sorted(sources)
    ]
    return Drawing(
        boxes=list(boxes.values()),
        arrows=arrows,
        width=max((box.x for box in boxes.values()), default=0) + BOX_WIDTH + MARGIN,
        height=max((box.y for box in boxes.values()), default=0) + BOX_HEIGHT + MARGIN,
    )


def direct_inputs(inputs: Inputs) -> dict[str, set[str]]:
    """Each asset's inputs without those that another of its inputs descends from."""
    ancestors = {asset: _ancestors(asset, inputs) for asset in inputs}
    return {
        asset: {s for s in sources if not any(s in ancestors[other] for other in sources)}
        for asset, sources in inputs.items()
    }


def _ancestors(asset: str, inputs: Inputs) -> set[str]:
    return set().union(*({parent} | _ancestors(parent, inputs) for parent in inputs[asset]))


def _longest_chain(asset: str, inputs: Inputs) -> list[str]:
    chains = [_longest_chain(parent, inputs) for parent in sorted(inputs[asset])]
    return [*max(chains, key=len, default=[]), asset]


def _places(inputs: Inputs) -> dict[str, tuple[int, int]]:
    """Row and column of each asset; the middle is column 0."""
    chains = {asset: _longest_chain(asset, inputs) for asset in inputs}
    middle = max(chains.values(), key=len, default=[])
    places = {asset: (row, 0) for row, asset in enumerate(middle)}
    for asset in inputs:
        if asset not in places:
            row = len(chains[asset]) - 1 if inputs[asset] else _row_of_source(asset, inputs, chains)
            places[asset] = _free_place(row, 1 if inputs[asset] else -1, places)
    return places


def _row_of_source(asset: str, inputs: Inputs, chains: Mapping[str, list[str]]) -> int:
    """The row above its first reader."""
    readers = [len(chains[other]) - 1 for other, parents in inputs.items() if asset in parents]
    return max(min(readers, default=1) - 1, 0)


def _free_place(row: int, side: int, places: Mapping[str, tuple[int, int]]) -> tuple[int, int]:
    column = side
    while (row, column) in places.values():
        column += side
    return row, column


def _box(asset: str, stage: StageRecord, time: str, row: int, column: int) -> Box:
    return Box(
        asset=asset,
        status=stage.status.value,
        sign=SIGNS[stage.status],
        time=time,
        x=MARGIN + column * COLUMN_STEP,
        y=MARGIN + row * ROW_STEP,
    )


def _arrow(source: Box, target: Box) -> str:
    """Down the source's own column to the gap above the target, then over to its upper edge."""
    x1, y1 = source.x + BOX_WIDTH // 2, source.y + BOX_HEIGHT
    x2, y2 = target.x + BOX_WIDTH // 2, target.y - 5
    turn = target.y - (ROW_STEP - BOX_HEIGHT)
    return f"M{x1},{y1} V{turn} C{x1},{y2} {x2},{turn} {x2},{y2}"
