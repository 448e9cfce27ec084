"""What stops a step before it does harm; the batch that did it is kept.

How far engine and trainer may be apart is another question: see `mismatch`.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import torch
from torch import Tensor

from stages.contracts import UserError
from stages.lm.optimisation import NonFiniteError
from stages.step3_policy.ppo.experience import Experience


@contextmanager
def keep_if_broken(experience: Experience, folder: Path, iteration: int) -> Iterator[None]:
    """Around what uses a batch: a number that is not finite ends the run and keeps the batch."""
    try:
        yield
    except NonFiniteError as error:
        path = folder / f"broken_batch_of_iteration_{iteration + 1}.pt"
        torch.save({**vars(experience.batch), **experience.tensors()}, path)
        raise UserError(
            f"PPO stopped in iteration {iteration + 1}: {error}",
            got=f"the batch is kept in {path}",
            do="lower policy_lr or critic_lr, or raise kl_coef; look at the scores in the file",
        ) from error


def check_log_ratios(experience: Experience) -> None:
    """Refuse a batch in which policy, reference or engine gave a sampled token no log-prob."""
    mask, old = experience.mask, experience.old_logprobs
    check_finite(old - experience.engine_logprobs, mask, "log-ratio of policy to engine")
    check_finite(old - experience.ref_logprobs, mask, "log-ratio of policy to reference")


def check_finite(values: Tensor, mask: Tensor, name: str) -> None:
    """Raises NonFiniteError where the mask is True and the value is no finite number."""
    wrong = int((~values.isfinite() & mask).sum())
    if wrong:
        raise NonFiniteError(f"the {name} is not finite at {wrong} of {int(mask.sum())} tokens")
