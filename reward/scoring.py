"""Scores of many responses: grouped by length, so that little padding is computed."""

from collections.abc import Callable, Sequence

import torch
from torch import Tensor

from stages.lm.batching import SequenceBatch, collate, micro_batches

TOKENS_PER_FORWARD = 8_192


@torch.no_grad()
def score_responses(
    score: Callable[[SequenceBatch], Tensor],
    prompts: Sequence[list[int]],
    responses: Sequence[list[int]],
    pad_token_id: int,
) -> Tensor:
    """(N,) float32 on the CPU, in the order given.

    score: a method of a reward model, (B,) of a batch.
    """
    lengths = [len(p) + len(r) for p, r in zip(prompts, responses, strict=True)]
    scores = torch.empty(len(lengths))
    for rows in micro_batches(lengths, TOKENS_PER_FORWARD):
        batch = collate([prompts[i] for i in rows], [responses[i] for i in rows], pad_token_id)
        scores[rows] = score(batch).cpu()
    return scores
