"""Modules around a model whose `forward` is what is trained, for backends that wrap modules.

A wrapper (DistributedDataParallel, DeepSpeed, FSDP) works by hooks on the forward of what it wraps.
Ours would pass it by: decoder and head of a language model are called apart.
"""

from typing import Any

import torch
from torch import Tensor, nn

from stages.lm.batching import SequenceBatch, pad_right
from stages.lm.logprobs import response_logprobs, response_logprobs_and_entropy


class ResponseLogprobs(nn.Module):
    """A causal language model that says how probable responses are."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(
        self, batch: SequenceBatch, temperature: float = 1.0, with_entropy: bool = False
    ) -> Tensor:
        """(B, R) log-probs of the response tokens; `with_entropy` (2, B, R), entropies second."""
        if with_entropy:
            return torch.stack(response_logprobs_and_entropy(self.model, batch, temperature))
        return response_logprobs(self.model, batch, temperature)


class ResponseValues(nn.Module):
    """A critic: the values before response tokens."""

    def __init__(self, model: Any) -> None:
        super().__init__()
        self.model = model
        self.eval()

    def forward(self, batch: SequenceBatch) -> Tensor:
        """(B, R)."""
        values: Tensor = self.model.values(batch)
        return values


def documents_batch(documents: list[list[int]], pad_token_id: int) -> SequenceBatch:
    """Text as responses to its first token, which nothing predicts."""
    lengths = torch.tensor([len(document) for document in documents])
    return SequenceBatch(
        input_ids=pad_right(documents, pad_token_id),
        prompt_lengths=torch.ones_like(lengths),
        lengths=lengths,
    )
