"""When to end a training whose validation loss no longer falls. No torch here."""

from dataclasses import dataclass

from stages.contracts import UserError, check_not_negative


@dataclass(kw_only=True)
class EarlyStopping:
    """End after `patience` validations in a row without a new lowest loss; keep its weights.

    validate_every: steps between these validations; there is one after the last step, too. Both 0:
    off, the last weights are kept.
    """

    patience: int = 0
    validate_every: int = 0

    def __post_init__(self) -> None:
        check_not_negative(self, "patience", "validate_every")
        if (self.patience > 0) != (self.validate_every > 0):
            raise UserError(
                "early stopping needs both patience and validate_every",
                got=f"patience={self.patience}, validate_every={self.validate_every}",
                do="for example patience=3 validate_every=50; both 0 turn it off",
            )

    @property
    def is_on(self) -> bool:
        """Whether it decides anything."""
        return self.patience > 0

    def counts(self, done: int, total_steps: int) -> bool:
        """Whether the validation after `done` steps is one of those that decide."""
        return self.is_on and (done == total_steps or done % self.validate_every == 0)
