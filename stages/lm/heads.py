"""What a causal language model computes after its decoder: the head, and what its family adds.

Log-probabilities are made from hidden states, a few at a time, so the model's own forward is not
asked. What families do to logits is repeated here; one that does something else is refused when it
is taken as a base (`stages.lm.supported`).
"""

from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor


@dataclass(frozen=True)
class ScaledHead:
    """A head whose logits are multiplied by `scale`, then bent towards +-`cap` (None: not)."""

    head: Any
    scale: float
    cap: float | None

    @property
    def out_features(self) -> int:
        """V, as of the head itself."""
        return int(self.head.out_features)

    def __call__(self, hidden: Tensor) -> Tensor:
        """(..., V) from (..., H)."""
        logits: Tensor = self.head(hidden) * self.scale
        return logits if self.cap is None else torch.tanh(logits / self.cap) * self.cap


def language_head(model: Any) -> Any:
    """(..., H) to logits (..., V)."""
    head, config = model.get_output_embeddings(), vars(model.config.get_text_config())
    # Cohere multiplies its logits, Granite divides them, Gemma caps them.
    scale = (config.get("logit_scale") or 1.0) / (config.get("logits_scaling") or 1.0)
    cap = config.get("final_logit_softcapping")
    return head if scale == 1.0 and cap is None else ScaledHead(head, scale, cap)
