"""Where zero is: scores shifted so that the labelers' demonstrations have mean 0 (App. C.2).

KL coefficients only mean something relative to the reward's scale; the paper fixes its zero and
leaves the scale. `unit_variance` fixes the scale too (Ziegler et al. 2019).
"""

import torch
from torch import Tensor

from reward.model import RewardModel


def normalise(
    model: RewardModel, demonstration_scores: Tensor, completion_scores: Tensor | None = None
) -> None:
    """Set the model's bias, and its scale where `completion_scores` are given.

    Both are raw scores (N,) of this model. The scale goes into the head's weights, the shift into
    `reward_bias`: so Transformers alone still gives our scores up to the bias.
    """
    scale = 1.0
    if completion_scores is not None:
        scale = 1.0 / float(completion_scores.double().std(unbiased=False))
    with torch.no_grad():
        for parameter in model.network.score.parameters():
            parameter.mul_(scale)
    model.network.config.reward_bias = scale * float(demonstration_scores.double().mean())
