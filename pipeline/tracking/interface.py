"""What a tracker is given. The driver alone calls trackers; stages append to their journals."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol


@dataclass(kw_only=True)
class LoggedStep:
    """Figures of one step of one stage. time: Unix seconds. index: a count over the whole run.

    The index grows by one a record and never repeats, a resumed pipeline included: some trackers
    want one axis that only grows, whatever the stages' own steps do.
    """

    stage: str
    step: int
    time: float
    index: int
    values: Mapping[str, float]


@dataclass(kw_only=True)
class LoggedTable:
    """Rows a person looks at, logged at one step of one stage."""

    stage: str
    step: int
    index: int
    name: str
    rows: Sequence[Mapping[str, Any]]


@dataclass(kw_only=True)
class LoggedArtifact:
    """An artifact of the run. parents: asset -> fingerprint. made_here: executed by this run."""

    asset: str
    fingerprint: str
    folder: Path
    parents: Mapping[str, str]
    metrics: Mapping[str, float]
    made_here: bool


class Tracker(Protocol):
    """Somewhere a run's curves, tables and artifacts go. Each record comes once."""

    def log(self, record: LoggedStep) -> None:
        """Show the figures of one step."""

    def table(self, record: LoggedTable) -> None:
        """Show a table of samples."""

    def artifact(self, artifact: LoggedArtifact) -> None:
        """Name an artifact with its lineage."""

    def close(self, summary: Mapping[str, Any]) -> None:
        """The run is over; `summary`: of summary.json, empty for a run that did not finish."""
