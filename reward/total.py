"""The weighted sum of components (B,), and what is checked of those that come as tensors."""

from collections.abc import Mapping
from dataclasses import dataclass

import torch
from torch import Tensor

from reward.config import RewardConfig
from reward.text_rewards import check_scores
from reward.text_sum import score_texts, text_components
from stages.records.schemas import Message


@dataclass(frozen=True, kw_only=True)
class Scored:
    """B responses. total: what is maximised. parts: every component's own score, unweighted.

    disagreements: of the members about `model`, where that is an ensemble.
    """

    total: Tensor
    parts: dict[str, Tensor]
    disagreements: Tensor | None = None


class TotalReward:
    """The sum as one `TextReward`, of components that all read text."""

    def __init__(self, config: RewardConfig) -> None:
        self.config, self.components = config, text_components(config)

    def __call__(
        self, prompts: list[list[Message]], responses: list[str], finished: list[bool]
    ) -> list[float]:
        """The total of each response. Raises RewardError: a component failed."""
        of_texts = score_texts(self.components, prompts, responses, finished)
        total: list[float] = weighted_sum(self.config, None, of_texts).total.tolist()
        return total


def weighted_sum(
    config: RewardConfig, of_model: Tensor | None, of_texts: Mapping[str, list[float]]
) -> Scored:
    """The sum over the components of weight * score, bounded by `clip`.

    Raises:
        RewardError: a score of the reward model that is not finite.
    """
    parts, like = {}, torch.empty(0) if of_model is None else of_model
    if of_model is not None:
        check_scores("model", of_model.tolist(), len(of_model))
        parts["model"] = of_model
    parts |= {n: torch.tensor(s, device=like.device, dtype=like.dtype) for n, s in of_texts.items()}
    weights = config.weights()
    total = torch.stack([weights[name] * scores for name, scores in parts.items()]).sum(0)
    return Scored(
        total=total if config.clip is None else total.clamp(-config.clip, config.clip), parts=parts
    )
