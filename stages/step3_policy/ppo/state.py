"""What a checkpoint of PPO holds.

Prompts, documents, sampling noise and minibatches are functions of (seed, iteration): so models,
optimizers, the average, the KL coefficient and the best-so-far are all there is to restore.
"""

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from stages.contracts import Journal
from stages.lm.checkpoints import Checkpoints, restore_rng, rng_state
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.groups import PolicyGroup
from stages.step3_policy.ppo.metrics import Figures
from stages.step3_policy.ppo.roles import PolicyRole, Roles
from stages.step3_policy.ppo.stopping import StopRules


@dataclass(kw_only=True)
class LoopState:
    """What changes from one iteration to the next, besides the roles' own weights.

    validation: figures of the latest validation. best_*: of the validation with the highest figure
    that `select` goes by; -inf, 0 and empty where it goes by none. strikes: how many times in a row
    each stop rule was broken. stopped_by: the rule that ended the training; "" while none has.
    in_flight: rollouts of the next iteration that are there already, with their version.
    """

    kl_coef: float
    iterations: int = 0
    validation: Figures = field(default_factory=dict)
    best_figure: float = -torch.inf
    best_iteration: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)
    strikes: dict[str, int] = field(default_factory=dict)
    stopped_by: str = ""
    in_flight: dict[str, Any] = field(default_factory=dict)

    def note_validation(
        self, figures: Figures, policy: PolicyRole | PolicyGroup, select: Select, done: int
    ) -> None:
        """Remember the latest validation, and the weights of the best."""
        self.validation = figures
        if select.figure is None or figures[select.figure] <= self.best_figure:
            return
        self.best_figure, self.best_iteration = figures[select.figure], done
        self.best_weights = policy.weights()

    def heed(self, rules: StopRules, figures: Figures) -> None:
        """Count what these figures break; a rule broken often enough ends the training."""
        self.strikes = rules.strikes(self.strikes, figures)
        self.stopped_by = rules.fired(self.strikes)


def save(checkpoints: Checkpoints, done: int, roles: Roles, state: LoopState) -> None:
    """Write everything the next iterations depend on, in one atomic checkpoint."""

    def save_roles(folder: Path) -> None:
        for name, role in roles.trained.items():
            role.save(folder / name)

    checkpoints.save(done, {"loop": vars(state), "rng": rng_state()}, save_roles)


def resume(
    checkpoints: Checkpoints, roles: Roles, config: PpoConfig, journal: Journal
) -> tuple[int, LoopState]:
    """Iterations already done, and the state after them; a new state without a checkpoint."""
    latest = checkpoints.load_latest()
    if latest is None:
        journal.rewind(-1)  # the validation before the first iteration is logged as step 0
        return 0, LoopState(kl_coef=config.kl_coef)
    done, saved = latest
    for name, role in roles.trained.items():
        role.load(checkpoints.path(done) / name)
    journal.rewind(done)
    restore_rng(saved["rng"])
    return done, LoopState(**saved["loop"])
