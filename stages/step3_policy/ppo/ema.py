"""An exponential moving average of the policy's weights (App. C.4: decay 0.992)."""

import torch
from torch import Tensor, nn


class WeightAverage:
    """average <- decay * average + (1 - decay) * weights; it starts at the first weights."""

    def __init__(self, module: nn.Module, decay: float) -> None:
        self.decay = decay
        self.weights = {name: p.detach().clone() for name, p in module.named_parameters()}

    @torch.no_grad()
    def update(self, module: nn.Module) -> None:
        """One step towards the module's weights."""
        for name, parameter in module.named_parameters():
            self.weights[name].lerp_(parameter, 1.0 - self.decay)

    @torch.no_grad()
    def copy_to(self, module: nn.Module) -> None:
        """Give the module the average weights."""
        for name, parameter in module.named_parameters():
            parameter.copy_(self.weights[name])

    def load(self, weights: dict[str, Tensor]) -> None:
        """Continue from the average of a checkpoint."""
        self.weights = {name: weights[name].clone() for name in self.weights}
