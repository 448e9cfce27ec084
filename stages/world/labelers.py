"""Simulated labelers: gold, plus what their group likes, plus noise, with ties when it is close."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from random import Random

from reward.labelers import Labeler, LabelerConfig, LabelerKind
from stages.contracts import UserError
from stages.records.schemas import Message
from stages.world.gold import gold_reward
from stages.world.words import QUALITIES

Taste = Callable[[Sequence[str]], float]  # words of a completion -> liking, within [-1, 1]


def _brevity(words: Sequence[str]) -> float:
    """1 for nothing said, -1 from sixteen words on."""
    return 1 - min(len(words), 16) / 8


def _variety(words: Sequence[str]) -> float:
    """The share of different words, from -1 (none) to 1 (all)."""
    return 2 * len(set(words)) / max(1, len(words)) - 1


def _colourfulness(words: Sequence[str]) -> float:
    """Whether anything is given a colour or a size."""
    return 1.0 if any(word in QUALITIES for word in words) else -1.0


# Opposite tastes stand beside each other, so that what all labelers together prefer is gold.
TASTES: dict[str, Taste] = {
    "brief": _brevity,
    "generous": lambda words: -_brevity(words),
    "colourful": _colourfulness,
    "plain": lambda words: -_colourfulness(words),
    "varied": _variety,
}


@dataclass(frozen=True)
class GoldLabeler:
    """Ranks by gold alone; equal gold ties."""

    name: str = "gold"
    group: str = "gold"

    def rank(
        self, prompt: list[Message], completions: Sequence[str], finished: Sequence[bool], seed: int
    ) -> list[int]:
        """See `reward.labelers.Labeler`; the seed changes nothing."""
        del seed
        return ranks_of(_gold(prompt, completions, finished), margin=1e-9)


@dataclass(frozen=True)
class SimulatedLabeler:
    """One person of a group. noise, tie_margin and taste are in units of gold."""

    name: str
    group: str
    noise: float
    tie_margin: float
    taste: float

    def rank(
        self, prompt: list[Message], completions: Sequence[str], finished: Sequence[bool], seed: int
    ) -> list[int]:
        """See `reward.labelers.Labeler`. A text that appears twice is judged once."""
        likes = TASTES[self.group]
        perceived = [
            gold + self.taste * likes(text.split()) + self._noise(prompt, text, done, seed)
            for gold, text, done in zip(
                _gold(prompt, completions, finished), completions, finished, strict=True
            )
        ]
        return ranks_of(perceived, self.tie_margin)

    def _noise(self, prompt: list[Message], text: str, finished: bool, seed: int) -> float:
        key = f"{seed}|{self.name}|{prompt[-1]['content']}|{text}|{finished}"
        return Random(key).gauss(0, self.noise)


def make_labelers(config: LabelerConfig, seed: int = 0) -> list[Labeler]:
    """The pool: one exact labeler, or groups of people with tastes of their own."""
    del seed  # all that is random about a labeler is drawn when ranking
    if config.kind is LabelerKind.exact:
        return [GoldLabeler()]
    if config.groups > len(TASTES):
        raise UserError(
            "labeler.groups is more than the world has tastes",
            got=str(config.groups),
            do=f"at most {len(TASTES)}: {', '.join(TASTES)}",
        )
    return [
        SimulatedLabeler(f"{group}-{number}", group, config.noise, config.tie_margin, config.taste)
        for group in list(TASTES)[: config.groups]
        for number in range(config.labelers_per_group)
    ]


def ranks_of(perceived: Sequence[float], margin: float) -> list[int]:
    """Ranks, 1 is best; what lies within `margin` of the best of a rank shares it."""
    ranks = [0] * len(perceived)
    best, rank = float("inf"), 0
    for place, index in enumerate(sorted(range(len(perceived)), key=lambda i: -perceived[i]), 1):
        if best - perceived[index] > margin:
            best, rank = perceived[index], place
        ranks[index] = rank
    return ranks


def _gold(
    prompt: list[Message], completions: Sequence[str], finished: Sequence[bool]
) -> list[float]:
    return [
        gold_reward(prompt, text, done) for text, done in zip(completions, finished, strict=True)
    ]
