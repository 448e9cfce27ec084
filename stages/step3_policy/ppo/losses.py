"""PPO's two losses, a number a token; the caller takes the mean over the tokens of a minibatch.

All tensors (B, R) float32. `old_` is what policy and critic said before the first update on these
responses. Losses are minimised: signs are those of -J.
"""

import torch
from torch import Tensor


def policy_losses(
    logprobs: Tensor, old_logprobs: Tensor, advantages: Tensor, clip_range: float
) -> tuple[Tensor, Tensor, Tensor]:
    """Clipped surrogate (Schulman et al. 2017, Eq. 7): losses, ratios, and where clipping binds.

    max(-A rho, -A clip(rho, 1 - eps, 1 + eps)), rho = pi/pi_old: no gradient where the clipped term
    is the larger one.
    """
    ratios = torch.exp(logprobs - old_logprobs)
    plain = -advantages * ratios
    clipped = -advantages * ratios.clamp(1.0 - clip_range, 1.0 + clip_range)
    return torch.maximum(plain, clipped), ratios, clipped > plain


def value_losses(
    values: Tensor, old_values: Tensor, returns: Tensor, clip_range: float | None
) -> Tensor:
    """Half the squared error, the worse of the value and the value kept within `clip_range`.

    As lm-human-preferences (Ziegler et al. 2019): no gradient past the clip. None: plain.
    """
    errors = (values - returns) ** 2
    if clip_range is None:
        return 0.5 * errors
    near = old_values + (values - old_values).clamp(-clip_range, clip_range)
    return 0.5 * torch.maximum(errors, (near - returns) ** 2)
