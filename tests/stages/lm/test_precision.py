"""bfloat16 inside decoders: near float32, float32 where it matters, in every copy."""

import copy

import pytest
import torch

from stages.contracts import UserError
from stages.lm.batching import collate
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.precision import Precision, compute_in
from stages.lm.rollout import Sampling, sampling_keys
from stages.step3_policy.ppo.config import PpoConfig

BATCH = collate([[5, 7, 8], [6]], [[4, 2], [11, 12, 13, 2]], 0)


def in_bf16(model):
    compute_in(model.get_decoder(), Precision.bf16)
    return model


def test_products_are_in_bfloat16_and_the_rest_in_float32(tiny_model):
    seen = {}
    layer = in_bf16(tiny_model).model.layers[0]
    layer.mlp.up_proj.register_forward_hook(lambda *parts: seen.update(product=parts[2].dtype))
    tiny_model.lm_head.register_forward_hook(lambda *parts: seen.update(logits=parts[2].dtype))
    response_logprobs(tiny_model, BATCH).sum().backward()
    assert seen == {"product": torch.bfloat16, "logits": torch.float32}
    assert {p.dtype for p in tiny_model.parameters()} == {torch.float32}
    assert {p.grad.dtype for p in tiny_model.parameters()} == {torch.float32}
    assert not torch.is_autocast_enabled("cpu")


def test_logprobs_differ_by_bfloat16s_rounding_and_no_more(tiny_model):
    """Relative spacing of bfloat16: 2^-8. Red when nothing is rounded, or the logits are."""
    exact = response_logprobs(tiny_model, BATCH)
    rounded = response_logprobs(in_bf16(tiny_model), BATCH)
    assert 0 < (exact - rounded).abs().max() < 2**-8


def test_a_copy_computes_with_its_own_weights_in_bfloat16(tiny_model):
    model = in_bf16(tiny_model)
    other = copy.deepcopy(model)
    torch.testing.assert_close(
        response_logprobs(other, BATCH), response_logprobs(model, BATCH), rtol=0, atol=0
    )
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    assert not response_logprobs(other, BATCH).equal(response_logprobs(model, BATCH))


def test_engine_agrees_with_the_training_forward(tiny_model):
    """The engine keeps rounded weights for all its tokens: red when it keeps them for the next."""
    model = in_bf16(tiny_model)
    engine = HFEngine(model, eos_token_id=2, pad_token_id=0)
    keys = sampling_keys(0, 0, range(3), [0] * 3)
    for _ in range(2):
        prompts = [[5, 7, 8], [6, 9], [7]]
        rollouts = engine.generate(prompts, Sampling(max_new_tokens=6), keys)
        recomputed = response_logprobs(model, collate(prompts, rollouts.tokens, 0))
        for row, logprobs in enumerate(rollouts.logprobs):
            found = recomputed[row, : len(logprobs)]
            torch.testing.assert_close(found, torch.tensor(logprobs), rtol=0, atol=2**-8)
        with torch.no_grad():
            model.model.layers[0].mlp.up_proj.weight.normal_()


def test_an_error_in_the_forward_leaves_autocast_off(tiny_model):
    with pytest.raises(IndexError):
        in_bf16(tiny_model).model(torch.tensor([[10_000]]))
    assert not torch.is_autocast_enabled("cpu")


def test_fp16_is_refused_with_the_reason():
    with pytest.raises(UserError, match="fp16 cannot be trained in here") as refused:
        PpoConfig(precision=Precision.fp16)
    assert "losses are scaled" in refused.value.got
