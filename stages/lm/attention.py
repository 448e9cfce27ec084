"""Attention as plain matrix products on a CPU: for short sequences faster than the fused kernel.

Measured on one thread of an AVX-512 processor, 16 sequences of 72 tokens, 4 heads of 64, forward
and backward: float32 1.3 and 1.8 ms against 1.7 and 3.5, bfloat16 0.9 and 0.9 against 1.9 and 12.8.
The weights take B x A x Q x K numbers, which the fused kernel saves: so short sequences only.

Dimension letters: B sequences, A heads, Q queries, K keys, D size of a head.
"""

from functools import cache
from typing import Any

import torch
from torch import Tensor

MAX_KEYS = 256  # above it the fused kernel
OTHER_MATHS = ("dropout", "softcap", "position_bias", "cache")  # options left to Transformers


@cache
def attention() -> str:
    """What to give to Transformers as `attn_implementation`, once it has been told of it."""
    from transformers import AttentionInterface, AttentionMaskInterface
    from transformers.masking_utils import sdpa_mask

    AttentionInterface.register("short_or_sdpa", attend)
    AttentionMaskInterface.register("short_or_sdpa", sdpa_mask)
    return "short_or_sdpa"


def attention_for(model_class: Any) -> str | None:
    """Ours for a class that hands its attention out to functions like `attend`; else None, which
    leaves the choice to Transformers (alibi, caps and sinks are in the models' own code)."""
    hands_out = model_class._supports_attention_backend and model_class._supports_sdpa
    return attention() if hands_out else None


def attend(
    module: Any,
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attention_mask: Tensor | None,
    **options: Any,
) -> tuple[Tensor, None]:
    """(B, Q, A, D) from queries (B, A, Q, D), and keys and values of A heads or a part of A.

    attention_mask: (B, 1, Q, K) bool, True where a query may look; None: at itself and before.
    """
    if query.device.type != "cpu" or key.shape[2] > MAX_KEYS or any(map(options.get, OTHER_MATHS)):
        from transformers.integrations.sdpa_attention import sdpa_attention_forward

        mixed, _ = sdpa_attention_forward(module, query, key, value, attention_mask, **options)
        return mixed, None
    shared = query.shape[1] // key.shape[1]
    if shared > 1:
        key, value = key.repeat_interleave(shared, 1), value.repeat_interleave(shared, 1)
    mixed = weighted_values(query, key, value, attention_mask, options["scaling"])
    return mixed.transpose(1, 2).contiguous(), None


def weighted_values(
    query: Tensor, key: Tensor, value: Tensor, attention_mask: Tensor | None, scaling: float
) -> Tensor:
    """(B, A, Q, D): softmax(scaling Q K^T + bias) V."""
    batch, heads, queries, size = query.shape
    bias = score_bias(query, key, attention_mask)
    scores = torch.baddbmm(
        bias.expand(batch, heads, queries, -1).reshape(batch * heads, queries, -1)
        if bias.dim() == 4
        else bias,
        query.reshape(batch * heads, queries, size),
        key.reshape(batch * heads, -1, size).transpose(1, 2),
        alpha=scaling,
    )
    mixed = torch.bmm(scores.softmax(-1), value.reshape(batch * heads, -1, size))
    return mixed.view(batch, heads, queries, size)


def score_bias(query: Tensor, key: Tensor, attention_mask: Tensor | None) -> Tensor:
    """(Q, K), or (B, 1, Q, K) from a mask: 0 where a query may look, else the lowest number.

    Not -inf: a row of padding that may look nowhere would give NaN.
    """
    queries, keys = query.shape[2], key.shape[2]
    lowest = torch.finfo(torch.bfloat16).min  # float32's own would overflow under autocast
    if attention_mask is not None:
        return torch.zeros((), dtype=query.dtype).masked_fill(~attention_mask, lowest)
    if queries == 1:
        return torch.zeros((1, keys), dtype=query.dtype)
    assert queries == keys, "without a mask the queries are the keys' own tokens"
    return torch.full((queries, keys), lowest, dtype=query.dtype).triu(1)
