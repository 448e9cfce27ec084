"""Several reward models as one: mean, minimum or uncertainty-penalised score (Coste et al. 2023).

    r_1 .. r_M       normalised scores of the members for one response
    mean             mean(r)
    minimum          min(r)
    uncertainty      mean(r) - c std(r)        std over the M members, divided by M
    score            one of these, minus its own mean over the demonstrations

Coste et al. subtract a variance; a standard deviation has the reward's unit, so c needs none.
A folder on disk holds the members, each a reward model's folder of its own, and `ensemble.json`.
Reward models keep what they said of demonstrations and validation, so that nothing is scored again.

Dimension letters: M members, B sequences.
"""

import json
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from torch import Tensor, nn

from reward.config import Combine
from reward.model import RewardModel, load_reward_model
from stages.lm.batching import SequenceBatch
from stages.lm.folders import link_folder

ENSEMBLE_FILE, SCORES_FILE = "ensemble.json", "scores.npz"


@dataclass(frozen=True, kw_only=True)
class Judged:
    """Normalised scores of a reward model: of demonstrations, and of validation completions.

    Both are (N,) float32, of what has at most max_length tokens.
    """

    demonstrations: Tensor
    completions: Tensor
    max_length: int

    @classmethod
    def of(cls, demonstrations: Sequence[float], completions: Tensor, max_length: int) -> Self:
        """From what a reward model has at hand."""
        return cls(
            demonstrations=torch.tensor(demonstrations, dtype=torch.float32),
            completions=completions,
            max_length=max_length,
        )

    def save(self, folder: Path) -> None:
        """Write `scores.npz`."""
        scores = {name: getattr(self, name).numpy() for name in ("demonstrations", "completions")}
        np.savez(folder / SCORES_FILE, max_length=np.array(self.max_length), **scores)

    @classmethod
    def load(cls, folder: Path) -> Self:
        """Read it."""
        with np.load(folder / SCORES_FILE) as file:
            return cls(
                demonstrations=torch.from_numpy(file["demonstrations"]),
                completions=torch.from_numpy(file["completions"]),
                max_length=int(file["max_length"]),
            )


@dataclass(frozen=True, kw_only=True)
class Rule:
    """How scores are combined. uncertainty_coef: c above, of `uncertainty` alone."""

    combine: Combine = Combine.mean
    uncertainty_coef: float = 1.0

    def __call__(self, scores: Tensor) -> Tensor:
        """(B,) of members' scores (M, B)."""
        if self.combine is Combine.minimum:
            return scores.amin(0)
        mean = scores.mean(0)
        if self.combine is Combine.mean:
            return mean
        return mean - self.uncertainty_coef * disagreement(scores)


def disagreement(scores: Tensor) -> Tensor:
    """(B,): standard deviation over the members of their scores (M, B); 0 of one member."""
    return scores.std(0, correction=0)


class Ensemble(nn.Module):
    """Members of one tokenizer, and the rule that makes one score of theirs."""

    def __init__(self, members: Sequence[RewardModel], rule: Rule, reward_bias: float) -> None:
        super().__init__()
        self.members = nn.ModuleList(members)
        self.rule, self.reward_bias = rule, reward_bias

    def member_scores(self, batch: SequenceBatch) -> Tensor:
        """(M, B) float32: each member's own normalised scores."""
        return torch.stack([member.scores(batch) for member in single_models(self)])

    def scores(self, batch: SequenceBatch) -> Tensor:
        """(B,) float32: combined, zero on average over the demonstrations."""
        return self.combined(self.member_scores(batch))

    def combined(self, scores: Tensor) -> Tensor:
        """(B,) of members' scores (M, B)."""
        return self.rule(scores) - self.reward_bias


Scorer = RewardModel | Ensemble


def load_scorer(folder: Path, *, foreign: bool = False) -> Scorer:
    """The reward model or the ensemble saved in `folder`, in eval mode.

    foreign: as in `load_reward_model`.
    """
    if not (folder / ENSEMBLE_FILE).is_file():
        return load_reward_model(folder, foreign=foreign)
    settings = json.loads((folder / ENSEMBLE_FILE).read_text())
    rule = Rule(combine=Combine(settings["combine"]), uncertainty_coef=settings["uncertainty_coef"])
    members = [load_reward_model(folder / name) for name in settings["members"]]
    return Ensemble(members, rule, settings["reward_bias"])


def single_models(scorer: Scorer) -> list[RewardModel]:
    """The reward models it is made of."""
    members = scorer.members if isinstance(scorer, Ensemble) else [scorer]
    return [member for member in members if isinstance(member, RewardModel)]


def first_member(folder: Path) -> Path:
    """Where one reward model alone lies: `folder`, or the first member's of an ensemble."""
    if not (folder / ENSEMBLE_FILE).is_file():
        return folder
    name: str = json.loads((folder / ENSEMBLE_FILE).read_text())["members"][0]
    return folder / name


def save_ensemble(members: Sequence[Path], rule: Rule, reward_bias: float, folder: Path) -> None:
    """Write `ensemble.json`, and beside it the members' folders: links where the disk allows."""
    names = [f"member_{number}" for number in range(1, len(members) + 1)]
    for name, member in zip(names, members, strict=True):
        link_folder(member, folder / name)
    settings = {
        "members": names,
        "combine": rule.combine.value,
        "uncertainty_coef": rule.uncertainty_coef,
        "reward_bias": reward_bias,
    }
    (folder / ENSEMBLE_FILE).write_text(json.dumps(settings, indent=2) + "\n")
