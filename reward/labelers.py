"""Who ranks completions: the protocol every labeler follows, and what a pool of them is made from.

`stages.world.labelers.make_labelers(config, seed)` makes the pool of the embedded world. No torch
here.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from enum import StrEnum
from typing import Protocol

from stages.contracts import UserError
from stages.records.schemas import Message


class LabelerKind(StrEnum):
    """exact: one labeler who ranks by gold. simulated: groups with noise and tastes."""

    exact = "exact"
    simulated = "simulated"


@dataclass(kw_only=True)
class LabelerConfig:
    """A pool of labelers; their number is the paper's, about 40 in five groups (§3.4, §4.1).

    noise: standard deviation of what a labeler adds to gold, in gold units, afresh for every
    completion. tie_margin: perceived qualities closer than this tie. taste: how far a group's
    liking departs from gold, in gold units; 0 makes all groups alike. Noise, tie margin and taste
    together are set so that two labelers agree on about 73% of the pairs that neither ties.
    """

    kind: LabelerKind = LabelerKind.simulated
    groups: int = 5
    labelers_per_group: int = 8
    noise: float = 0.27
    tie_margin: float = 0.1
    taste: float = 0.25

    def __post_init__(self) -> None:
        for name in ("groups", "labelers_per_group"):
            if getattr(self, name) < 1:
                raise UserError(
                    f"labeler.{name} must be at least 1", got=str(getattr(self, name)), do="set 1+"
                )
        for name in ("noise", "tie_margin", "taste"):
            if getattr(self, name) < 0:
                raise UserError(
                    f"labeler.{name} must not be negative",
                    got=str(getattr(self, name)),
                    do="0 switches it off",
                )


class Labeler(Protocol):
    """One person, or what stands in for one."""

    @property
    def name(self) -> str:
        """Unique in the pool."""
        ...

    @property
    def group(self) -> str:
        """People of one group share a taste."""
        ...

    def rank(
        self, prompt: list[Message], completions: Sequence[str], finished: Sequence[bool], seed: int
    ) -> list[int]:
        """Ranks of K completions: 1 is best, equal ranks are ties.

        finished[k]: completion k ended in EOS. seed: all the noise of this judgement; the same
        labeler, prompt, completions and seed give the same ranks.
        """
        ...
