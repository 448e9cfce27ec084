"""Log-probs of responses against the plain computation over all logits."""

import math

import pytest
import torch

from stages.lm import logprobs as under_test
from stages.lm.batching import SequenceBatch, collate, micro_batches
from stages.lm.logprobs import (
    chunk_rows,
    document_loss,
    response_logprobs,
    response_logprobs_and_entropy,
)

PROMPTS, RESPONSES = [[5, 7, 8], [6], [9, 10]], [[4, 2], [11, 12, 13, 2], [14]]


def plain_logprobs(model, prompt, response, temperature):
    """One sequence alone, no padding, all logits, token by token."""
    logits = model(torch.tensor([prompt + response])).logits[0].double() / temperature
    return [
        float(logits[len(prompt) - 1 + t].log_softmax(-1)[token].detach())
        for t, token in enumerate(response)
    ]


@pytest.mark.parametrize("temperature", [1.0, 0.7])
def test_equal_to_one_sequence_at_a_time(tiny_model, temperature):
    """Red when the hidden state at the token itself is used, or the temperature is left out."""
    found = response_logprobs(tiny_model, collate(PROMPTS, RESPONSES, 0), temperature)
    for row, (prompt, response) in enumerate(zip(PROMPTS, RESPONSES, strict=True)):
        expected = plain_logprobs(tiny_model, prompt, response, temperature)
        assert found[row, : len(response)].tolist() == pytest.approx(expected, abs=1e-5)
        assert found[row, len(response) :].abs().sum() == 0


def test_padding_and_pad_id_change_nothing(tiny_model):
    batch = collate(PROMPTS, RESPONSES, 0)
    wide = SequenceBatch(
        input_ids=torch.nn.functional.pad(batch.input_ids, (0, 5), value=2),
        prompt_lengths=batch.prompt_lengths,
        lengths=batch.lengths,
    )
    torch.testing.assert_close(
        response_logprobs(tiny_model, wide), response_logprobs(tiny_model, batch), rtol=0, atol=1e-6
    )


def test_entropy_of_a_uniform_distribution_is_log_v(tiny_model):
    torch.nn.init.zeros_(tiny_model.lm_head.weight)
    batch = collate(PROMPTS, RESPONSES, 0)
    logprobs, entropy = response_logprobs_and_entropy(tiny_model, batch)
    log_v = math.log(tiny_model.config.vocab_size)
    torch.testing.assert_close(entropy[batch.response_mask], torch.full((7,), log_v))
    torch.testing.assert_close(logprobs[batch.response_mask], torch.full((7,), -log_v))


def test_chunks_change_neither_values_nor_gradients(tiny_model, monkeypatch):
    def values_and_gradients():
        tiny_model.zero_grad()
        logprobs = response_logprobs(tiny_model, collate(PROMPTS, RESPONSES, 0))
        logprobs.square().sum().backward()
        return logprobs.detach(), [p.grad.clone() for p in tiny_model.parameters()]

    whole = values_and_gradients()
    monkeypatch.setattr(under_test, "CHUNK_TOKENS", 2)
    torch.testing.assert_close(values_and_gradients(), whole)


def test_a_large_vocabulary_makes_the_chunks_shorter(monkeypatch):
    """441 rows of 151,936 float32 logits are the most that 256 MiB hold."""
    assert chunk_rows(torch.nn.Linear(1, 151_936, device="meta")) == 441
    monkeypatch.setattr(under_test, "CHUNK_BYTES", 100)
    assert chunk_rows(torch.nn.Linear(1, 150, device="meta")) == 1


def test_no_more_logits_than_a_chunk_are_made(tiny_model, monkeypatch):
    rows = []
    monkeypatch.setattr(under_test, "CHUNK_BYTES", 4 * tiny_model.config.vocab_size * 2)
    tiny_model.lm_head.register_forward_hook(lambda *parts: rows.append(len(parts[2])))
    response_logprobs(tiny_model, collate(PROMPTS, RESPONSES, 0)).sum().backward()
    assert max(rows) == 2
    assert sum(rows) == 2 * 7  # once, and once again in the backward


def test_document_loss_is_the_models_own_cross_entropy(tiny_model):
    documents = [[1, 5, 6, 7, 2], [1, 9, 2]]
    total, tokens = document_loss(tiny_model, documents, pad_token_id=0)
    own = [
        tiny_model(torch.tensor([d]), labels=torch.tensor([d])).loss * (len(d) - 1)
        for d in documents
    ]
    assert tokens == 6
    assert float(total.detach()) == pytest.approx(float(sum(own).detach()), rel=1e-5)


def test_micro_batches_hold_every_index_once_within_the_budget():
    lengths = [7, 3, 9, 3, 12, 1, 40]
    groups = micro_batches(lengths, max_tokens=20)
    assert sorted(index for group in groups for index in group) == list(range(7))
    for group in groups:
        assert len(group) == 1 or len(group) * max(lengths[i] for i in group) <= 20


def test_select_cuts_to_the_longest_chosen_row():
    batch = collate(PROMPTS, RESPONSES, 0)
    chosen = batch.select([2, 0])
    assert chosen.input_ids.tolist() == [[9, 10, 14, 0, 0], [5, 7, 8, 4, 2]]
    assert chosen.response_tokens[chosen.response_mask].tolist() == [14, 4, 2]
