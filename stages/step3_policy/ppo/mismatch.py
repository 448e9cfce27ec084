"""Engine against trainer: how far apart their log-probs are, and the weights that make up for it.

Tokens are drawn from the engine's distribution mu: other arithmetic, with `async_steps=1` also
weights one update older. The surrogate is an expectation under pi_old, the trainer's policy before
the updates; over tokens of mu it needs each token's importance weight, held fixed (the decoupled
objective of Hilton et al. 2022, section 3):

    L_t = w_t max(-A rho, -A clip(rho, 1 - eps, 1 + eps)),   rho = pi / pi_old,   k = pi_old / mu

    none      w_t = 1
    truncate  w_t = min(k, C)                           Yao et al. 2025 (TIS), C = 2
    mask      w_t = k where a <= k <= b, else 0         Ling Team 2025 (IcePop), a = 0.5, b = 5

Truncation bounds the variance and keeps every token; masking leaves out those on which engine and
trainer disagree. The mean stays one over all tokens. Only the surrogate is weighted: the critic's
loss and the KL are those of the tokens as they are.

All tensors (B, R) float32, right-padded.
"""

import torch
from torch import Tensor

from stages.contracts import UserError
from stages.lm.engines.config import Correction, RolloutConfig
from stages.step3_policy.ppo.masked import masked_mean


def importance_weights(
    old_logprobs: Tensor, engine_logprobs: Tensor, config: RolloutConfig
) -> Tensor:
    """w_t of every token; 1 where engine and trainer agree, so 1 at padding (0 against 0)."""
    ratios = torch.exp(old_logprobs - engine_logprobs)
    match config.correction:
        case Correction.none:
            return torch.ones_like(ratios)
        case Correction.truncate:
            return ratios.clamp(max=config.truncate_above)
        case Correction.mask:
            kept = (ratios >= config.mask_below) & (ratios <= config.mask_above)
            return ratios.masked_fill(~kept, 0.0)


def difference_figures(logprobs: Tensor, engine_logprobs: Tensor, mask: Tensor) -> dict[str, float]:
    """|trainer - engine| of the sampled tokens, nats: mean and largest."""
    difference = (logprobs - engine_logprobs).abs()
    return {
        "rollout/logprob_diff_mean": float(masked_mean(difference, mask)),
        "rollout/logprob_diff_max": float(difference.masked_fill(~mask, 0.0).max()),
    }


def correction_figures(
    old_logprobs: Tensor, engine_logprobs: Tensor, weights: Tensor, mask: Tensor
) -> dict[str, float]:
    """What the correction did: the mean weight, and the share of tokens outside its bounds."""
    outside = weights != torch.exp(old_logprobs - engine_logprobs)
    return {
        "rollout/correction_mean": float(masked_mean(weights, mask)),
        "rollout/corrected_fraction": float(masked_mean(outside.float(), mask)),
    }


def check_difference(figures: dict[str, float], config: RolloutConfig) -> None:
    """A UserError where engine and trainer, at the same weights, do not say the same."""
    mean = figures["rollout/logprob_diff_mean"]
    if not mean <= config.max_logprob_diff:
        raise UserError(
            "the rollout engine's log-probs are not the policy's",
            got=f"a mean difference of {mean:.4f} nats a token, the largest "
            f"{figures['rollout/logprob_diff_max']:.2f}; rollout.max_logprob_diff is "
            f"{config.max_logprob_diff}",
            do="try rollout.dtype=float32; if that helps, the difference is rounding: "
            "rollout.correction=truncate and a higher rollout.max_logprob_diff. If it does not, "
            "the engine computes another model: look for plain sampling (top_k=0, top_p=1), and "
            "for a model whose architecture vLLM reads differently",
        )
