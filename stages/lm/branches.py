"""Many responses to one prompt, the prompt encoded once: branches on its key-value cache.

Each response continues its prompt's positions and sees the prompt and itself, no other response.
The hidden states are those of each response encoded with its own copy of the prompt, and so are the
gradients; the arithmetic is that of the prompt once and of each response once.

Dimension letters: G prompts, P tokens of the longest; N responses, R of the longest; H hidden.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from stages.lm.batching import pad_right


@dataclass(kw_only=True)
class Branches:
    """Prompts and their responses, right-padded apart."""

    prompt_ids: Tensor  # (G, P) int64
    prompt_lengths: Tensor  # (G,) int64
    response_ids: Tensor  # (N, R) int64
    response_lengths: Tensor  # (N,) int64
    owners: Tensor  # (N,) int64: the prompt that a response continues


def collate_branches(
    prompts: Sequence[list[int]], responses: Sequence[Sequence[list[int]]], pad_token_id: int
) -> Branches:
    """G prompts, each with the responses that continue it."""
    flat = [response for own in responses for response in own]
    assert all(prompts), "a prompt without a token has no last token to continue"
    assert all(flat), "a response without a token has no last token"
    owners = [owner for owner, own in enumerate(responses) for _ in own]
    return Branches(
        prompt_ids=pad_right(prompts, pad_token_id),
        prompt_lengths=torch.tensor([len(prompt) for prompt in prompts]),
        response_ids=pad_right(flat, pad_token_id),
        response_lengths=torch.tensor([len(response) for response in flat]),
        owners=torch.tensor(owners),
    )


def last_hidden_states(backbone: Any, branches: Branches) -> Tensor:
    """(N, H): the hidden state of each response's last token."""
    from transformers import DynamicCache

    prompt_mask = _mask(branches.prompt_lengths, branches.prompt_ids.shape[1])
    cache = DynamicCache(config=backbone.config)
    backbone(
        input_ids=branches.prompt_ids,
        attention_mask=prompt_mask,
        past_key_values=cache,
        use_cache=True,
    )
    cache.batch_select_indices(branches.owners)
    width = branches.response_ids.shape[1]
    columns = torch.arange(width, device=branches.owners.device)
    response_mask = _mask(branches.response_lengths, width)
    hidden: Tensor = backbone(
        input_ids=branches.response_ids,
        attention_mask=torch.cat([prompt_mask[branches.owners], response_mask], dim=1),
        position_ids=branches.prompt_lengths[branches.owners][:, None] + columns,
        past_key_values=cache,
        use_cache=True,
    ).last_hidden_state
    rows = torch.arange(len(hidden), device=hidden.device)
    return hidden[rows, branches.response_lengths - 1]


def _mask(lengths: Tensor, width: int) -> Tensor:
    """(B, width) int64: 1 on real tokens."""
    return (torch.arange(width, device=lengths.device) < lengths[:, None]).long()
