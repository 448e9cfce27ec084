"""Products by oneDNN keep float32's rounding, or are given up."""

import pytest
import torch

from stages.lm import products
from stages.lm.products import prefer_onednn


@pytest.fixture(autouse=True)
def as_before():
    before = torch.backends.mkldnn.matmul.fp32_precision
    yield
    torch.backends.mkldnn.matmul.fp32_precision = before


def test_products_of_every_kind_have_the_error_of_float32():
    """Forward, both gradients and batched; bfloat16's error would be a thousand times as large."""
    prefer_onednn()
    left, right = torch.randn(96, 256), torch.randn(128, 256)
    kinds = {
        "forward": (left, right.t()),
        "gradient of inputs": (left @ right.t(), right),
        "gradient of weights": (left.t(), torch.randn(96, 128)),
        "batched": (left.view(4, 24, 256), right.view(4, 32, 256).transpose(1, 2)),
    }
    for a, b in kinds.values():
        error = ((a @ b).double() - a.double() @ b.double()).abs().max()
        scale = (a.double().abs() @ b.double().abs()).max()
        assert error < 1e-6 * scale


def test_coarse_products_leave_torchs_choice(monkeypatch):
    """As on a processor with matrix tiles; red when the comparison is turned round."""
    monkeypatch.setattr(products, "rounding_error", lambda: 0.05)
    prefer_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "ieee"
    monkeypatch.setattr(products, "rounding_error", lambda: 2e-5)
    prefer_onednn()
    assert torch.backends.mkldnn.matmul.fp32_precision == "bf16"
