"""Where zero is: scores shifted so that the labelers' demonstrations have mean 0 (App. C.2).

KL coefficients only mean something relative to the reward's scale; the paper fixes its zero and
leaves the scale. `unit_variance` fixes the scale too (Ziegler et al. 2019).
"""

import torch
from torch import Tensor

from reward.model import RewardModel
from stages.contracts import UserError


def normalise(
    model: RewardModel, demonstration_scores: Tensor, completion_scores: Tensor | None = None
) -> Tensor:
    """Set the model's bias, and its scale where `completion_scores` are given.

    Both are raw scores (N,) of this model. Returned are the demonstrations' normalised scores (N,)
    float64. The scale goes into the head's weights, the shift into `reward_bias`: so Transformers
    alone still gives our scores up to the bias. Raises UserError where completions all score alike.
    """
    scale = 1.0
    if completion_scores is not None:
        scale = 1.0 / _spread(completion_scores)
    with torch.no_grad():
        for parameter in model.network.score.parameters():
            parameter.mul_(scale)
    model.network.config.reward_bias = scale * float(demonstration_scores.double().mean())
    return scale * demonstration_scores.double() - model.reward_bias


def _spread(scores: Tensor) -> float:
    spread = float(scores.double().std(unbiased=False))
    if spread == 0:
        raise UserError(
            "reward_model.unit_variance needs completions that score differently",
            got=f"{len(scores)} validation completions with one and the same score",
            do="give more validation comparisons, or leave unit_variance off",
        )
    return spread
