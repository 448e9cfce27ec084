"""Liger's Triton kernels (norms, rotary positions, gated units) in the place of the model's own."""

from importlib.util import find_spec

from stages.contracts import UserError


def check_liger() -> None:
    """Refuse `liger=true` where its kernels cannot run."""
    import torch

    if not torch.cuda.is_available():
        raise UserError(
            "liger=true: its kernels are written in Triton, for a GPU",
            got=f"torch {torch.__version__} without a GPU",
            do="set liger=false",
        )
    if find_spec("liger_kernel") is None:
        raise UserError(
            "liger=true needs the package liger-kernel",
            got="it is not installed",
            do="pip install -e '.[liger]'",
        )
