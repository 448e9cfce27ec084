"""Packed rows learn what their sequences learn apart: no sequence sees another."""

from dataclasses import replace

import pytest
import torch
from torch.nn.functional import cross_entropy

from stages.contracts import InterruptedRunError, UserError
from stages.step1_sft.config import Packing
from stages.step1_sft.packing import PackedCollator, check_packing, packed
from stages.step1_sft.sequences import Sequence
from tests.stages.step1_sft import test_sft
from tests.stages.step1_sft.families import tiny
from tests.stages.step1_sft.test_fine_tuning import SEQUENCES, fit, tiny_config


def rows_of(packing, max_length):
    return packed(SEQUENCES, tiny_config(packing=packing, max_length=max_length))


def test_bfd_keeps_sequences_whole_and_their_positions():
    """7, 6 and 4 tokens into rows of 11: 7 with 4, and 6. Best fit decreasing, worked by hand."""
    rows = rows_of(Packing.bfd, 11)
    assert [len(row.input_ids) for row in rows] == [11, 6]
    first, last = SEQUENCES[0], SEQUENCES[2]
    assert rows[0].input_ids == first.input_ids + last.input_ids
    assert rows[0].labels == [*first.labels, -100, *last.labels[1:]]
    assert rows[0].position_ids == [*range(7), *range(4)]


def test_wrapped_cuts_where_a_row_is_full():
    """17 tokens in rows of 8: 8, 8 and 1; a cut sequence goes on at its own position."""
    rows = rows_of(Packing.wrapped, 8)
    assert [len(row.input_ids) for row in rows] == [8, 8, 1]
    joined = [token for row in rows for token in row.input_ids]
    starts = [place for row in rows for place in row.position_ids].count(0)
    assert sorted(joined) == sorted(token for s in SEQUENCES for token in s.input_ids)
    assert starts == 3


def gradients(model, batches):
    """Summed cross-entropy of all labelled tokens, and its gradients."""
    model.zero_grad()
    total = torch.zeros(())
    for batch in batches:
        labels = batch.pop("labels")[:, 1:]
        logits = model(**batch, use_cache=False).logits[:, :-1]
        losses = cross_entropy(logits.reshape(-1, 20), labels.reshape(-1), reduction="sum")
        total = total + losses
    total.backward()
    return total.detach(), [p.grad.clone() for p in model.parameters()]


@pytest.mark.parametrize("family", ["llama", "gpt2", "gpt_neox"])
def test_the_same_loss_and_gradients_as_apart(family):
    """Learned positions and rotary ones. Mutations: positions that run on; an attention mask beside
    them, with which a sequence sees the one before it."""
    model = tiny(family)
    check_packing(model)
    collated = PackedCollator(0)([vars(row) for row in rows_of(Packing.bfd, 11)])
    apart = [
        {"input_ids": torch.tensor([s.input_ids]), "labels": torch.tensor([s.labels])}
        for s in SEQUENCES
    ]
    torch.testing.assert_close(
        gradients(model, [collated]), gradients(model, apart), rtol=1e-5, atol=1e-5
    )


def test_the_trainer_sees_the_same_step(tiny_model_folder, tiny_tokenizer, tmp_path):
    """Through TRL: the loss is the mean over labelled tokens, so rows in place of sequences change
    neither it nor the gradient's norm, with padding in the second row or not."""
    from stages.lm.loading import load_causal_lm

    def step(sequences, **changes):
        model = load_causal_lm(tiny_model_folder / "model")
        config = tiny_config(batch_size=len(sequences), microbatch_size=len(sequences), **changes)
        folder = tmp_path / config.packing
        ((_, figures),) = fit(model, tiny_tokenizer, config, folder, sequences)
        return figures

    alone = step(SEQUENCES)
    together = step(rows_of(Packing.bfd, 11), packing=Packing.bfd)
    for name in ("loss/train", "grad_norm", "accuracy/train"):
        assert together[name] == pytest.approx(alone[name], rel=1e-5)


def test_a_family_in_which_sequences_see_each_other_is_refused():
    """BLOOM's distances come from the attention mask, not from positions."""
    with pytest.raises(UserError, match="bloom cannot be packed"):
        check_packing(tiny("bloom"))


def test_without_packing_nothing_changes():
    assert packed(SEQUENCES, tiny_config()) == SEQUENCES
    assert isinstance(SEQUENCES[0], Sequence)


def test_stopped_and_run_again_ends_with_the_same_weights(
    tmp_path, tiny_model_folder, demonstrations, monkeypatch
):
    """Packed, with noise on embeddings and activations computed again."""
    options = {"packing": Packing.bfd, "neftune_alpha": 5.0, "gradient_checkpointing": True}
    config = replace(test_sft.CONFIG, max_length=40, batch_size=2, **options)
    monkeypatch.setattr(test_sft, "CONFIG", config)
    whole, stopped, asked = tmp_path / "whole", tmp_path / "stopped", iter(range(1, 100))
    report = test_sft.run_stage(whole, tiny_model_folder, demonstrations)
    assert report.metrics["rows"] < report.metrics["demonstrations"] == 22
    with pytest.raises(InterruptedRunError):
        test_sft.run_stage(stopped, tiny_model_folder, demonstrations, lambda: next(asked) >= 7)
    test_sft.run_stage(stopped, tiny_model_folder, demonstrations)
    assert test_sft.hashes(stopped) == test_sft.hashes(whole)
