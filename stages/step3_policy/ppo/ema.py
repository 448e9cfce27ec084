"""An exponential moving average of the policy's weights (App. C.4: decay 0.992)."""

from collections.abc import Mapping

import torch
from torch import Tensor


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights; it starts at the first weights.

    Weights by name: whole ones, or a rank's part of each.
    """

    def __init__(self, weights: Mapping[str, Tensor], decay: float) -> None:
        self.decay = decay
        self.weights = {name: tensor.detach().clone() for name, tensor in weights.items()}

    @torch.no_grad()
    def update(self, weights: Mapping[str, Tensor]) -> None:
        """One step towards these weights."""
        for name, tensor in weights.items():
            self.weights[name].lerp_(tensor, 1.0 - self.decay)
