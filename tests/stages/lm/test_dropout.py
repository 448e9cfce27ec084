"""Residual dropout: on the branches, in train mode, inside the context, and nowhere else."""

import pytest
import torch
from torch import nn

from stages.contracts import UserError
from stages.lm.dropout import Dropping, hooked, residual_dropout, residual_writers

TOKENS = torch.tensor([[1, 4, 7, 8, 5, 9]])


def test_two_branches_a_block_write_to_the_residual_stream(tiny_model):
    assert len(residual_writers(tiny_model)) == 2 * tiny_model.config.num_hidden_layers


def test_seen_in_train_mode_only(tiny_model):
    """Fails if the hook ignores `module.training`: evaluation would be noisy."""
    plain = tiny_model(TOKENS).logits
    with torch.no_grad(), residual_dropout(tiny_model, 0.5):
        tiny_model.train()
        assert not torch.equal(tiny_model(TOKENS).logits, tiny_model(TOKENS).logits)
        tiny_model.eval()
        assert torch.equal(tiny_model(TOKENS).logits, plain)


def test_gone_after_the_context_even_after_an_error(tiny_model):
    tiny_model.train()
    plain = tiny_model(TOKENS).logits
    with pytest.raises(RuntimeError, match="stop"), residual_dropout(tiny_model, 0.5):
        raise RuntimeError("stop")
    assert torch.equal(tiny_model(TOKENS).logits, plain)


def test_drops_the_asked_share_and_keeps_the_mean():
    """Fails if survivors are not scaled by 1 / (1 - p): hand-worked, 0.8 * 1.25 = 1."""
    writer = nn.Identity()
    with hooked([writer], Dropping(0.2)):
        torch.manual_seed(0)
        output, weights = writer.train()(torch.ones(4000, 16)), writer((torch.ones(9), "weights"))
    assert set(output.unique().tolist()) == {0.0, 1.25}
    assert float((output == 0).float().mean()) == pytest.approx(0.2, abs=0.005)
    assert weights[1] == "weights"


def test_zero_needs_no_known_branch():
    with residual_dropout(nn.Linear(2, 2), 0.0):
        pass


def test_an_unknown_model_is_refused():
    with (
        pytest.raises(UserError, match="no residual branch"),
        residual_dropout(nn.Sequential(nn.Linear(2, 2)), 0.2),
    ):
        pass
