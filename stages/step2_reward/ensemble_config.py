"""Settings of an ensemble of reward models and of its members. No torch here."""

from collections.abc import Sequence
from dataclasses import dataclass, field, fields
from enum import StrEnum

from reward.config import Combine
from stages.contracts import StageConfig, UserError, check_not_negative, check_positive
from stages.step2_reward.config import RewardModelConfig

SEED_STEP = 1000  # between members, so that runs with neighbouring seeds share none


class MemberData(StrEnum):
    """What each member learns from.

    all: every comparison. bootstrap: as many prompts, drawn with replacement. disjoint: a part of
    the prompts that no other member has.
    """

    all = "all"
    bootstrap = "bootstrap"
    disjoint = "disjoint"


@dataclass(kw_only=True)
class EnsembleConfig(StageConfig):
    """The group `ensemble`: M reward models instead of one (Coste et al. 2023).

    members: M; 1 is the plain reward model. combine: what makes one score of theirs
    (`reward/ensemble.py`). uncertainty_coef: standard deviations of the members that `uncertainty`
    takes from their mean. data: what each learns from; every member has a seed of its own for head
    and order. held_out_groups: as the members' (`RewardModelConfig`).
    """

    members: int = 1
    combine: Combine = Combine.mean
    uncertainty_coef: float = 1.0
    data: MemberData = MemberData.all
    held_out_groups: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_positive(self, "members")
        check_not_negative(self, "uncertainty_coef")
        defaults = {spec.name: spec.default for spec in fields(self)}
        without_use = [
            f"{name}={getattr(self, name)}"
            for name in ("combine", "uncertainty_coef", "data")
            if self.members == 1 and getattr(self, name) != defaults[name]
        ]
        if without_use:
            raise UserError(
                "members is 1: there is nothing to combine",
                got=", ".join(without_use),
                do="take ensemble=ensemble, or leave them out",
            )


@dataclass(kw_only=True)
class MemberConfig(RewardModelConfig):
    """A reward model that learns from its own part of the comparisons.

    bootstrap: as many as there are, with replacement, drawn from the member's seed. parts, part:
    how many disjoint parts, by a permutation that parts_seed draws, and which is this one's.
    """

    bootstrap: bool = False
    parts: int = 1
    part: int = 0
    parts_seed: int = 0

    def rows(self, num_comparisons: int) -> Sequence[int]:
        """Indices of the training comparisons that it learns from."""
        import numpy as np

        if self.bootstrap:
            generator = np.random.default_rng(self.seed)
            drawn: list[int] = generator.integers(num_comparisons, size=num_comparisons).tolist()
            return drawn
        if self.parts == 1:
            return range(num_comparisons)
        order = np.random.default_rng(self.parts_seed).permutation(num_comparisons)
        return sorted(order[self.part :: self.parts].tolist())


def member_configs(reward_model: RewardModelConfig, ensemble: EnsembleConfig) -> list[MemberConfig]:
    """The members' configs: those of the reward model, with their own seeds and data.

    What a member is does not depend on how many there are, or how they are combined, unless each
    has a part of the data.
    """
    common = {spec.name: getattr(reward_model, spec.name) for spec in fields(reward_model)}
    disjoint = ensemble.data is MemberData.disjoint
    return [
        MemberConfig(
            **common
            | {
                "seed": reward_model.seed + SEED_STEP * number,
                "bootstrap": ensemble.data is MemberData.bootstrap,
                "parts": ensemble.members if disjoint else 1,
                "part": number if disjoint else 0,
                "parts_seed": reward_model.seed if disjoint else 0,
            }
        )
        for number in range(ensemble.members)
    ]
