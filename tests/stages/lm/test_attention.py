"""Attention by products against one query at a time, and against Transformers' own."""

import math
from types import SimpleNamespace

import pytest
import torch
from torch import Tensor

from stages.lm import attention as under_test
from stages.lm.attention import attend, attention
from stages.lm.batching import collate
from stages.lm.loading import load_causal_lm
from stages.lm.logprobs import response_logprobs

BATCH, HEADS, SIZE = 2, 4, 3


def tensors(queries: int, keys: int, key_heads: int = HEADS) -> tuple[Tensor, Tensor, Tensor]:
    generator = torch.Generator().manual_seed(0)
    shapes = ((HEADS, queries), (key_heads, keys), (key_heads, keys))
    return tuple(torch.randn(BATCH, *s, SIZE, generator=generator) for s in shapes)


def plain(query: Tensor, key: Tensor, value: Tensor, may_look: Tensor, scaling: float) -> Tensor:
    """(B, Q, A, D), one query of one head at a time; may_look (B, Q, K) bool."""
    mixed = torch.zeros(BATCH, query.shape[2], HEADS, SIZE)
    for b in range(BATCH):
        for a in range(HEADS):
            shared = a * key.shape[1] // HEADS
            for q in range(query.shape[2]):
                seen = [k for k in range(key.shape[2]) if may_look[b, q, k]]
                scores = [scaling * float(query[b, a, q].dot(key[b, shared, k])) for k in seen]
                weights = [math.exp(score) for score in scores]
                mixed[b, q, a] = sum(
                    weight / sum(weights) * value[b, shared, k]
                    for weight, k in zip(weights, seen, strict=True)
                )
    return mixed


@pytest.mark.parametrize("key_heads", [4, 2, 1])
def test_causal_equals_one_query_at_a_time(key_heads):
    """Red when a query sees its successor (triu(2)), or shared heads are dealt in another order."""
    query, key, value = tensors(5, 5, key_heads)
    found, _ = attend(None, query, key, value, None, scaling=0.7)
    before = torch.ones(5, 5, dtype=torch.bool).tril().expand(BATCH, 5, 5)
    torch.testing.assert_close(found, plain(query, key, value, before, 0.7))


def test_mask_equals_one_query_at_a_time():
    """Two new tokens after three cached ones, of which a row of the batch misses some."""
    query, key, value = tensors(2, 5)
    mask = torch.tensor([[[1, 1, 1, 1, 0], [1, 1, 1, 1, 1]], [[0, 0, 1, 1, 0], [0, 0, 1, 1, 1]]])
    found, _ = attend(None, query, key, value, mask.bool()[:, None], scaling=0.5)
    torch.testing.assert_close(found, plain(query, key, value, mask.bool(), 0.5))


def test_a_single_query_without_a_mask_sees_everything():
    query, key, value = tensors(1, 4)
    found, _ = attend(None, query, key, value, None, scaling=0.5)
    everything = torch.ones(BATCH, 1, 4, dtype=torch.bool)
    torch.testing.assert_close(found, plain(query, key, value, everything, 0.5))


def test_a_row_that_may_look_nowhere_stays_finite():
    query, key, value = tensors(1, 4)
    found, _ = attend(
        None, query, key, value, torch.zeros(BATCH, 1, 1, 4, dtype=torch.bool), scaling=0.5
    )
    assert found.isfinite().all()


def test_long_sequences_go_to_the_fused_kernel_with_the_same_result(monkeypatch):
    query, key, value = tensors(6, 6, 2)
    module = SimpleNamespace(num_key_value_groups=2, is_causal=True)
    short, _ = attend(module, query, key, value, None, scaling=0.7)
    monkeypatch.setattr(under_test, "MAX_KEYS", 5)
    monkeypatch.setattr(under_test, "weighted_values", None)
    long, _ = attend(module, query, key, value, None, scaling=0.7)
    torch.testing.assert_close(short, long)


def test_a_loaded_model_has_the_gradients_of_sdpa(tiny_model_folder):
    batch = collate([[5, 7, 8], [6]], [[4, 2], [11, 12, 13, 2]], 0)
    gradients = []
    for implementation in (attention(), "sdpa"):
        model = load_causal_lm(tiny_model_folder / "model")
        assert model.config._attn_implementation == attention()
        model.set_attn_implementation(implementation)
        response_logprobs(model, batch).sum().backward()
        gradients.append([p.grad for p in model.parameters()])
    torch.testing.assert_close(*gradients)


def test_a_saved_model_does_not_ask_for_our_attention(tiny_model_folder, tmp_path):
    load_causal_lm(tiny_model_folder / "model").save_pretrained(tmp_path)
    assert attention() not in (tmp_path / "config.json").read_text()
