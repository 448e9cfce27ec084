"""Residual dropout on every family, and no other dropout, whatever a checkpoint asks for."""

import pytest
import torch

from stages.lm.dropout import hooked, residual_dropout, residual_writers
from stages.lm.loading import load_causal_lm
from tests.families.models import FAMILIES, write_family

TOKENS = torch.tensor([[5, 17, 30, 8, 21, 40, 11, 9, 25]])
OWN = {
    "gpt2": {"resid_pdrop": 0.5, "attn_pdrop": 0.5, "embd_pdrop": 0.5},
    "gpt_neox": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "opt": {"dropout": 0.5, "attention_dropout": 0.5, "layerdrop": 0.5},
    "bloom": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon_alibi": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "falcon_new": {"hidden_dropout": 0.5, "attention_dropout": 0.5},
    "phi": {"resid_pdrop": 0.5, "embd_pdrop": 0.5, "attention_dropout": 0.5},
}


@pytest.fixture(params=FAMILIES)
def model(request, tmp_path):
    """A family whose checkpoint asks for all the dropout that it knows."""
    changes = OWN.get(request.param, {"attention_dropout": 0.5})
    return load_causal_lm(write_family(request.param, tmp_path, **changes))


def calls(model, modules) -> int:
    """How often they are called in a forward; Phi has one module that both branches call."""
    called: list[torch.nn.Module] = []
    with hooked(modules, lambda module, _inputs, _output: called.append(module)), torch.no_grad():
        model(TOKENS)
    return len(called)


def test_on_what_each_block_adds_in_train_mode_and_nowhere_else(model) -> None:
    assert calls(model, residual_writers(model)) == 2 * model.config.num_hidden_layers
    with torch.no_grad():
        model.eval()
        plain = model(TOKENS).logits
        model.train()
        torch.testing.assert_close(model(TOKENS).logits, plain)  # none of the checkpoint's own
        with residual_dropout(model, 0.5):
            drawn = [model(TOKENS).logits for _ in range(2)]
            assert not torch.allclose(*drawn)
            assert not torch.allclose(drawn[0], plain)
            model.eval()
            torch.testing.assert_close(model(TOKENS).logits, plain)
        model.train()
        torch.testing.assert_close(model(TOKENS).logits, plain)


def test_a_rate_of_one_leaves_the_embeddings_alone(model) -> None:
    """All that blocks write is dropped, once: what comes out of the last block went into the first.

    Fails if a writer is missed, or if the stream itself is dropped.
    """
    seen: dict[str, torch.Tensor] = {}
    blocks = next(m for m in model.modules() if isinstance(m, torch.nn.ModuleList))
    blocks[0].register_forward_pre_hook(
        lambda _m, args, kwargs: seen.update(first=args[0] if args else kwargs["hidden_states"]),
        with_kwargs=True,
    )
    blocks[-1].register_forward_hook(
        lambda _m, _i, out: seen.update(last=out[0] if isinstance(out, tuple) else out)
    )
    model.train()
    with torch.no_grad(), residual_dropout(model, 1.0):
        model(TOKENS)
    torch.testing.assert_close(seen["last"], seen["first"])


def test_granite_scales_what_its_blocks_add() -> None:
    """Fails if a writer must add its output as it is."""
    from tests.families.test_trial import OTHERS, model_of

    model = model_of("granite", OTHERS["granite"])
    assert calls(model, residual_writers(model)) == 2 * model.config.num_hidden_layers
