"""Policies that are tables: problems small enough to know the best policy exactly.

A table row holds the logits of the token after each token. The classes have the few methods that
PPO's roles ask of a language model, a reward model and a critic: the real loop runs on them.
"""

from collections.abc import Iterable, Sequence
from types import SimpleNamespace
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from transformers import PreTrainedConfig

from stages.lm.batching import SequenceBatch
from stages.lm.rollout import Rollouts, Sampling, choose_tokens, uniforms

PROMPT = 4  # the token every prompt consists of; actions are 0..3
PAD = 5


class TablePolicy(nn.Module):
    """Four actions after the prompt; as a decoder its hidden states are the logits themselves."""

    def __init__(self, ref: list[float]) -> None:
        super().__init__()
        table = torch.full((6, 6), -1e9)
        table[PROMPT, :4] = torch.tensor(ref).log()
        self.table = nn.Parameter(table)
        self.head = nn.Identity()
        self.head.out_features = 6
        self.config = PreTrainedConfig()

    def get_decoder(self) -> Any:
        return self._decode

    def get_output_embeddings(self) -> nn.Module:
        return self.head

    def _decode(self, input_ids: Tensor, **_: Any) -> SimpleNamespace:
        return SimpleNamespace(last_hidden_state=self.table[input_ids])

    def probabilities(self) -> list[float]:
        return self.table[PROMPT, :4].detach().softmax(-1).tolist()


class TableEngine:
    """One action a prompt, always finished, from the policy's own table."""

    in_process = True

    def __init__(self, policy: TablePolicy) -> None:
        self.policy, self.version = policy, 0

    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        self.version = version

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        logprobs = self.policy.table[PROMPT].detach().log_softmax(-1).expand(len(prompts), -1)
        chosen = choose_tokens(logprobs, sampling, uniforms(keys, 0))
        taken = logprobs.gather(1, chosen[:, None])
        return Rollouts(
            tokens=chosen[:, None].tolist(),
            logprobs=taken.tolist(),
            finished=[True] * len(prompts),
            version=self.version,
        )


class TableReward(nn.Module):
    """The known reward of each action."""

    def __init__(self, rewards: list[float]) -> None:
        super().__init__()
        self.rewards = torch.tensor(rewards)

    def scores(self, batch: SequenceBatch) -> Tensor:
        return self.rewards[batch.response_tokens[:, 0]]


class ConstantCritic(nn.Module):
    """One value for the only state there is."""

    def __init__(self) -> None:
        super().__init__()
        self.value = nn.Parameter(torch.zeros(()))

    def values(self, batch: SequenceBatch) -> Tensor:
        return self.value.expand(batch.response_mask.shape)
