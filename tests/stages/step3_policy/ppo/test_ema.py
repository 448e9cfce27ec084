"""The average of the weights."""

import pytest
import torch
from torch import nn

from stages.lm.backends.base import copy_weights
from stages.step3_policy.ppo.ema import WeightAverage


def moved(decay: float, updates: int) -> float:
    """Where the average is after `updates` when the weight jumps from 0 to 1 and stays."""
    module = nn.Linear(1, 1, bias=False).double()
    nn.init.zeros_(module.weight)
    average = WeightAverage(dict(module.named_parameters()), decay)
    nn.init.ones_(module.weight)
    for _ in range(updates):
        average.update(dict(module.named_parameters()))
    return average.weights["weight"].item()


def test_half_life() -> None:
    """ln .5 / ln .992 = 86.3 updates. Mutation: `lerp_(p, decay)`."""
    assert moved(0.992, 86) < 0.5 < moved(0.992, 87)


def test_one_update_by_hand() -> None:
    assert moved(0.9, 1) == pytest.approx(0.1)


def test_copying_gives_the_module_the_average() -> None:
    """Mutation: `weights` holding the module's own tensors."""
    module = nn.Linear(2, 1)
    start = module.weight.detach().clone()
    average = WeightAverage(dict(module.named_parameters()), 0.5)
    with torch.no_grad():
        module.weight.add_(1.0)
    assert torch.equal(average.weights["weight"], start)
    copy_weights(average.weights, module)
    assert torch.equal(module.weight, start)
