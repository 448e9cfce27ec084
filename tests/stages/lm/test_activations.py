"""Activations computed again: the same gradients, less kept."""

import copy

import pytest
import torch

from stages.contracts import UserError
from stages.lm.activations import checkpoint_activations
from stages.lm.batching import collate
from stages.lm.dropout import residual_dropout
from stages.lm.logprobs import response_logprobs
from stages.lm.precision import Precision, compute_in

BATCH = collate([[5, 7, 8], [6]], [[4, 2], [11, 12, 13, 2]], 0)


def gradients(model, calls):
    """calls: emptied of those by which dropout found out where to act."""
    model.zero_grad()
    with residual_dropout(model, 0.3):
        torch.manual_seed(1)
        del calls[:]
        response_logprobs(model, BATCH).sum().backward()
    return [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("training", [True, False])
@pytest.mark.parametrize("precision", [Precision.fp32, Precision.bf16])
def test_the_same_gradients_bit_for_bit(tiny_model, training, precision):
    """In train mode with dropout, whose noise must come again; under autocast."""
    compute_in(tiny_model.get_decoder(), precision)
    tiny_model.train(training)
    calls = []
    plain = gradients(tiny_model, calls)
    checkpoint_activations(tiny_model)
    tiny_model.model.layers[0].self_attn.register_forward_hook(lambda *_: calls.append(1))
    again = gradients(tiny_model, calls)
    assert len(calls) == 2  # and once more in the backward
    assert all(torch.equal(one, other) for one, other in zip(plain, again, strict=True))


def test_a_copy_computes_with_its_own_weights(tiny_model):
    checkpoint_activations(tiny_model)
    other = copy.deepcopy(tiny_model)
    with torch.no_grad():
        other.model.layers[0].mlp.up_proj.weight.mul_(2.0)
    found = [response_logprobs(model, BATCH) for model in (tiny_model, other)]
    assert not torch.equal(*found)


def test_less_is_kept_for_the_backward(tiny_model):
    """Tensors saved by autograd. Mutation: a switch that acts in train mode only."""

    def saved():
        sizes = []
        hooks = torch.autograd.graph.saved_tensors_hooks(
            lambda tensor: (sizes.append(tensor.numel()), tensor)[1], lambda tensor: tensor
        )
        with hooks:
            tiny_model.model(BATCH.input_ids, use_cache=False)
        return sum(sizes)

    before = saved()
    checkpoint_activations(tiny_model)
    assert saved() < before / 2


def test_a_model_without_known_blocks_is_refused():
    with pytest.raises(UserError, match="no block"):
        checkpoint_activations(torch.nn.Linear(2, 2))
