"""What a checkpoint of PPO holds, and what is kept of a step that had to be stopped.

Prompts, documents, sampling noise and minibatches are functions of (seed, iteration): so models,
optimizers, the average, the KL coefficient and the best-so-far are all there is to restore.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path

import torch
from torch import Tensor

from stages.contracts import Journal, UserError
from stages.lm.checkpoints import Checkpoints, restore_rng, rng_state
from stages.lm.optimisation import NonFiniteError
from stages.step3_policy.ppo.config import PpoConfig, Select
from stages.step3_policy.ppo.experience import Experience
from stages.step3_policy.ppo.metrics import Figures
from stages.step3_policy.ppo.roles import PolicyRole, Roles


@dataclass(kw_only=True)
class LoopState:
    """What changes from one iteration to the next, besides the roles' own weights.

    validation: figures of the latest validation. best_weights: kept for `select=proxy` alone.
    """

    kl_coef: float
    validation: Figures = field(default_factory=dict)
    best_proxy: float = -torch.inf
    best_iteration: int = 0
    best_weights: dict[str, Tensor] = field(default_factory=dict)

    def note_validation(
        self, figures: Figures, policy: PolicyRole, select: Select, done: int
    ) -> None:
        """Remember the latest validation, and the best one by its proxy."""
        self.validation = figures
        if figures["validation/proxy"] <= self.best_proxy:
            return
        self.best_proxy, self.best_iteration = figures["validation/proxy"], done
        if select is Select.proxy:
            weights = policy.model.state_dict()
            self.best_weights = {name: tensor.clone() for name, tensor in weights.items()}


def save(checkpoints: Checkpoints, done: int, roles: Roles, state: LoopState) -> None:
    """Write everything the next iterations depend on, in one atomic file."""
    checkpoints.save(
        done,
        {
            "policy": roles.policy.state(),
            "critic": roles.critic.state(),
            "loop": vars(state),
            "rng": rng_state(),
        },
    )


def resume(
    checkpoints: Checkpoints, roles: Roles, config: PpoConfig, journal: Journal
) -> tuple[int, LoopState]:
    """Iterations already done, and the state after them; a new state without a checkpoint."""
    latest = checkpoints.load_latest()
    if latest is None:
        journal.rewind(-1)  # the validation before the first iteration is logged as step 0
        return 0, LoopState(kl_coef=config.kl_coef)
    done, saved = latest
    roles.policy.load(saved["policy"])
    roles.critic.load(saved["critic"])
    journal.rewind(done)
    restore_rng(saved["rng"])
    return done, LoopState(**saved["loop"])


@contextmanager
def keep_if_broken(minibatch: Experience, folder: Path, iteration: int) -> Iterator[None]:
    """Around an update: a loss or gradient that is not finite ends the run and keeps the batch."""
    try:
        yield
    except NonFiniteError as error:
        path = folder / f"broken_minibatch_of_iteration_{iteration + 1}.pt"
        torch.save({**vars(minibatch.batch), **minibatch.tensors()}, path)
        raise UserError(
            f"PPO stopped in iteration {iteration + 1}: {error}",
            got=f"the minibatch is kept in {path}",
            do="lower policy_lr or critic_lr, or raise kl_coef; look at the scores in the file",
        ) from error
