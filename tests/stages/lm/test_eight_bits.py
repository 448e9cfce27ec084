"""Moments of eight bits: near AdamW, saved and restored; through TRL as well."""

import pytest
import torch

from stages.contracts import UserError
from stages.lm import adamw
from stages.lm.adamw import AdamWConfig, AdamWKind
from stages.lm.backends.base import SingleProcess
from stages.lm.optimisation import OptimizerConfig

pytest.importorskip("bitsandbytes")


def trained(kind, steps, folder=None):
    """A layer of 8,192 weights, large enough for 8 bits, taught to give zero."""
    torch.manual_seed(0)
    layer = torch.nn.Linear(128, 64, bias=False)
    backend = SingleProcess(layer, OptimizerConfig(lr=1e-3, optimizer=kind))
    if folder is not None:
        backend.load(folder)
    inputs = torch.randn(32, 128, generator=torch.Generator().manual_seed(1))
    for _ in range(steps):
        backend.backward(backend.forward(inputs).square().mean())
        backend.step(1e-3)
    return backend


def test_moments_are_bytes_and_steps_are_adamws():
    exact, coarse = trained(AdamWKind.adamw, 20), trained(AdamWKind.adamw_8bit, 20)
    (state,) = coarse.optimizer.state.values()
    assert state["state1"].dtype == state["state2"].dtype == torch.uint8
    torch.manual_seed(0)
    start = torch.nn.Linear(128, 64, bias=False).weight
    moved, other = exact.module.weight - start, coarse.module.weight - start
    assert 0 < float((moved - other).norm() / moved.norm()) < 0.1


def test_continued_from_a_checkpoint_it_is_the_same(tmp_path):
    whole, first = trained(AdamWKind.adamw_8bit, 8), trained(AdamWKind.adamw_8bit, 5)
    first.save(tmp_path)
    rest = trained(AdamWKind.adamw_8bit, 3, tmp_path)
    assert torch.equal(whole.module.weight, rest.module.weight)


def test_without_bitsandbytes_it_is_refused(monkeypatch):
    monkeypatch.setattr(adamw, "find_spec", lambda _name: None)
    AdamWConfig().check_adamw()
    with pytest.raises(UserError, match="needs bitsandbytes"):
        AdamWConfig(optimizer=AdamWKind.adamw_8bit).check_adamw()
