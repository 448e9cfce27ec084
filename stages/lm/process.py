"""The one way into a stage: threads, seeds and what libraries leave behind in a process.

Because every executor goes through here, a reused process, a fresh one and the local executor give
the same weights.
"""

import os
import random
import sys

import numpy as np

from stages.contracts import UserError


def prepare_process(threads: int, seed: int) -> None:
    """Give this process `threads` compute threads, seed every generator, forget earlier stages."""
    import torch

    from stages.lm.products import prefer_onednn

    # Stages tell of their progress through the journal; bars only fill their logs.
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    torch.set_num_threads(threads)
    prefer_onednn()
    torch.use_deterministic_algorithms(True, warn_only=True)
    # Else every `torch.empty` is filled with NaN: half the time of a small model's SFT step.
    torch.utils.deterministic.fill_uninitialized_memory = False  # type: ignore[attr-defined]
    seed_everything(seed)
    _reset_accelerate()


def compute_on(gpus: float) -> None:
    """From now on this process makes its tensors on its GPU, or on the CPU; it opens models there.

    Raises:
        UserError: a GPU is wanted and torch sees none.
    """
    import torch

    if gpus > 0 and not torch.cuda.is_available():
        raise UserError(
            "a stage is to compute on a GPU, and torch finds none",
            got=f"executor.gpus={gpus:g}, torch {torch.__version__}",
            do="executor.gpus=0, or install a torch build for this machine's GPUs",
        )
    # None, not "cpu": a default device costs something at every call, even the one it is anyhow.
    torch.set_default_device("cuda" if gpus > 0 else None)


def seed_everything(seed: int) -> None:
    """Seed Python's, NumPy's and torch's generators."""
    import torch

    random.seed(seed)
    np.random.seed(seed)  # noqa: NPY002  # libraries draw from NumPy's legacy generator
    torch.manual_seed(seed)


def _reset_accelerate() -> None:
    """Accelerate keeps its state in the process: a second trainer would inherit the first one's."""
    if "accelerate" not in sys.modules:
        return
    from accelerate.state import AcceleratorState, GradientState

    AcceleratorState._reset_state(reset_partial_state=True)
    GradientState._reset_state()
