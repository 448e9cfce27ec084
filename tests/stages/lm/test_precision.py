"""bfloat16 inside decoders: near float32, float32 where it matters, in every copy."""

import copy
import math

import pytest
import torch

from stages.contracts import UserError
from stages.lm import precision
from stages.lm.backends.base import SingleProcess
from stages.lm.backends.config import BackendKind
from stages.lm.backends.make import make_backend
from stages.lm.batching import SequenceBatch, collate
from stages.lm.engines.hf import HFEngine
from stages.lm.logprobs import response_logprobs
from stages.lm.modules import ResponseLogprobs
from stages.lm.optimisation import NonFiniteError, OptimizerConfig
from stages.lm.precision import Precision, compute_in, computing_in
from stages.lm.rollout import Sampling, sampling_keys

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


def test_float32_again_after_the_undo(tiny_model):
    exact = response_logprobs(tiny_model, BATCH)
    with computing_in(tiny_model.get_decoder(), Precision.bf16):
        assert not torch.equal(response_logprobs(tiny_model, BATCH), exact)
    assert torch.equal(response_logprobs(tiny_model, BATCH), exact)


def test_fp16_is_refused_on_a_cpu(tiny_model):
    with pytest.raises(UserError, match="fp16 is for GPUs"):
        compute_in(tiny_model.get_decoder(), Precision.fp16)


@pytest.fixture
def in_fp16(tiny_model, monkeypatch):
    """A backend whose decoder computes in fp16, here on the CPU."""
    monkeypatch.setattr(precision, "FP16_ON_CPU", True)
    compute_in(tiny_model.get_decoder(), Precision.fp16)
    config = OptimizerConfig(lr=0.01, scales_loss=True)
    return SingleProcess(ResponseLogprobs(tiny_model), config)


def weights(backend):
    return {name: tensor.clone() for name, tensor in backend.shards().items()}


def test_a_step_in_fp16_is_that_in_float32_up_to_rounding(tiny_model, in_fp16):
    """The scale, 65,536 at first, is in the gradients and taken out of the norm and the step."""
    plain = SingleProcess(ResponseLogprobs(copy.deepcopy(tiny_model)), OptimizerConfig(lr=0.01))
    for hooks in ("_forward_pre_hooks", "_forward_hooks"):
        getattr(plain.module.model.get_decoder(), hooks).clear()
    norms = []
    for backend in (plain, in_fp16):
        backend.backward(-backend.forward(BATCH).mean())
        norms.append((backend.gradient_norm(), backend.step(0.01)))
    scaled = in_fp16.module.model.lm_head.weight
    assert norms[0] == pytest.approx(norms[1], rel=1e-2)
    torch.testing.assert_close(scaled, plain.module.model.lm_head.weight, rtol=0, atol=2e-3)
    assert in_fp16.scaler.get_scale() == 65_536


def test_a_scale_that_is_too_large_costs_a_step_and_is_halved(in_fp16, tmp_path):
    """Gradients above 65,504 are infinite in fp16. The halved scale outlives a checkpoint."""
    before = weights(in_fp16)
    in_fp16.backward(-1e5 * in_fp16.forward(BATCH).sum())
    assert not math.isfinite(in_fp16.step(0.01))
    assert all(torch.equal(before[name], tensor) for name, tensor in in_fp16.shards().items())
    assert in_fp16.scaler.get_scale() == 32_768
    in_fp16.save(tmp_path)
    other = SingleProcess(in_fp16.module, in_fp16.config)
    other.load(tmp_path)
    assert other.scaler.get_scale() == 32_768
    in_fp16.backward(-in_fp16.forward(BATCH).mean())
    assert math.isfinite(in_fp16.step(0.01))
    assert any(not torch.equal(before[name], tensor) for name, tensor in in_fp16.shards().items())


def test_what_is_infinite_at_any_scale_stops_the_run(in_fp16):
    in_fp16.scaler = torch.amp.GradScaler("cpu", init_scale=1.0)
    in_fp16.backward(math.inf * in_fp16.forward(BATCH).sum())
    with pytest.raises(NonFiniteError):
        in_fp16.step(0.01)


@pytest.mark.parametrize("kind", [BackendKind.deepspeed, BackendKind.fsdp2])
def test_where_the_optimizer_is_split_fp16_is_refused(tiny_model, kind):
    config = OptimizerConfig(lr=0.01, scales_loss=True)
    with pytest.raises(UserError, match="precision=fp16 works where"):
        make_backend(tiny_model, config, kind, {})


@pytest.mark.gpu
def test_fp16_on_a_gpu_learns(tiny_model):
    model = tiny_model.cuda()
    compute_in(model.get_decoder(), Precision.fp16)
    backend = SingleProcess(ResponseLogprobs(model), OptimizerConfig(lr=0.01, scales_loss=True))
    batch = SequenceBatch(**{name: tensor.cuda() for name, tensor in vars(BATCH).items()})
    losses = []
    for _ in range(20):
        loss = -backend.forward(batch).mean()
        backend.backward(loss)
        backend.step(0.01)
        losses.append(float(loss.detach()))
    assert losses[-1] < losses[0] / 2
