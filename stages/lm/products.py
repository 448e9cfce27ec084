"""Which library multiplies float32 matrices on a CPU.

Torch's own choice is MKL, which is slow on processors that are not Intel's. oneDNN multiplies in
the same dtype, with the same rounding error, 2.0 to 2.3 times as fast there (hidden sizes 128 to
1024, one or two threads of an AVX-512 AMD processor).
"""

import torch
from torch import Tensor


def prefer_onednn() -> None:
    """Let oneDNN make float32 products in this process, where they stay float32.

    Torch's switch for it also permits bfloat16 inside, which only processors with matrix tiles
    (AMX) make use of: there a product shows the coarser rounding, and MKL stays.
    """
    products = torch.backends.mkldnn.matmul  # type: ignore[attr-defined]  # torch leaves it out
    products.fp32_precision = "bf16"
    if rounding_error() > 1e-4:
        products.fp32_precision = "ieee"


def rounding_error() -> float:
    """The largest error of a product of numbers about 1: near 1e-5 in float32, 0.1 in bfloat16."""
    generator = torch.Generator("cpu").manual_seed(0)
    left, right = (torch.randn(64, 64, generator=generator, device="cpu") for _ in range(2))
    error: Tensor = (left @ right).double() - left.double() @ right.double()
    return float(error.abs().max())
