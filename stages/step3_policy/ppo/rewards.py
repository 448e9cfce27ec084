"""One score a response to one reward a token (section 3.5; App. C.4).

The episode is a bandit: the reward model's score stands at the last token, the KL penalty at every
token. scores (B,), finished (B,) bool: the response ended in EOS; mask (B, R) bool.
"""

import torch
from torch import Tensor

from stages.step3_policy.ppo.config import MissingEos


def apply_missing_eos(scores: Tensor, finished: Tensor, rule: MissingEos, penalty: float) -> Tensor:
    """(B,): scores, those of responses without EOS changed as `rule` says."""
    if rule is MissingEos.none:
        return scores
    kept = scores if rule is MissingEos.subtract else torch.zeros_like(scores)
    return torch.where(finished, scores, kept - penalty)


def token_rewards(scores: Tensor, penalties: Tensor, mask: Tensor) -> Tensor:
    """(B, R): `penalties` (B, R) at each token, the score added at the last one; 0 where masked."""
    rewards = penalties.masked_fill(~mask, 0.0)
    rows = torch.arange(len(scores), device=scores.device)
    rewards[rows, mask.sum(-1) - 1] += scores
    return rewards
