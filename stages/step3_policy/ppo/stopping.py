"""Rules that end PPO early: the policy went too far, or its responses lost their shape. No torch.

None is the paper's: it trains for a number of episodes. A rule that is null does not exist.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from stages.contracts import UserError

RULES = ("kl_above", "response_tokens_above", "response_tokens_below", "eos_rate_below")


class Watch(StrEnum):
    """Whose figures the rules read: every iteration's rollouts, or the validations."""

    rollout = "rollout"
    validation = "validation"


@dataclass(kw_only=True)
class StopRules:
    """Limits on the KL (nats a response), the mean length (tokens) and the share that ends in EOS.

    A rule ends the training once its limit was broken `patience` times in a row.
    """

    kl_above: float | None = None
    response_tokens_above: float | None = None
    response_tokens_below: float | None = None
    eos_rate_below: float | None = None
    patience: int = 3
    watch: Watch = Watch.rollout

    def __post_init__(self) -> None:
        for name, limit in self.limits().items():
            if not limit > 0:
                raise UserError(
                    f"{name} must be positive", got=str(limit), do="set it to null for no rule"
                )
        if self.eos_rate_below is not None and self.eos_rate_below > 1:
            raise UserError(
                "eos_rate_below is a share of the responses",
                got=str(self.eos_rate_below),
                do="for example 0.9",
            )
        if self.patience < 1:
            raise UserError(
                "patience must be at least 1", got=str(self.patience), do="1 stops at the first"
            )

    def limits(self) -> dict[str, float]:
        """The rules there are, by name."""
        rules = {name: getattr(self, name) for name in RULES}
        return {name: limit for name, limit in rules.items() if limit is not None}

    def strikes(self, before: Mapping[str, int], figures: Mapping[str, float]) -> dict[str, int]:
        """How many times in a row each rule was broken, these figures included.

        before: the same until now; it stands while the figures hold nothing that is watched.
        """
        if f"{self.watch}/kl" not in figures:
            return dict(before)
        return {
            name: before.get(name, 0) + 1
            for name, limit in self.limits().items()
            if _is_broken(name, limit, figures, self.watch)
        }

    def fired(self, strikes: Mapping[str, int]) -> str:
        """The rule that ends the training; "" if none does."""
        return next((name for name, count in strikes.items() if count >= self.patience), "")


def _is_broken(name: str, limit: float, figures: Mapping[str, float], watch: Watch) -> bool:
    figure, _, side = name.rpartition("_")
    value = figures[f"{watch}/{figure}"]
    return value > limit if side == "above" else value < limit
