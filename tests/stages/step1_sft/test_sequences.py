"""Which tokens carry loss, and where EOS stands."""

import pytest

from stages.contracts import UserError
from stages.records.schemas import Demonstration
from stages.step1_sft.config import LossOn
from stages.step1_sft.sequences import document_sequences, encode_demonstrations

RECORD = Demonstration(prompt=[{"role": "user", "content": "the cat"}], response="red dog")
TOKENS = ["<bos>", "<user>", "the", "cat", "<assistant>", "red", "dog", "<eos>"]


def encode(tokenizer, records, *, max_length=64, loss_on=LossOn.completion):
    return encode_demonstrations(tokenizer, records, max_length=max_length, loss_on=loss_on)


def test_loss_on_the_response_and_its_eos_only(tiny_tokenizer):
    """Fails if the mask is off by one at the prompt's end, or EOS carries no loss."""
    ids = tiny_tokenizer.convert_tokens_to_ids(TOKENS)
    (sequence,) = encode(tiny_tokenizer, [RECORD])
    assert sequence.input_ids == ids
    assert sequence.labels == [-100] * 5 + ids[5:]


def test_loss_on_the_prompt_is_an_option(tiny_tokenizer):
    (sequence,) = encode(tiny_tokenizer, [RECORD], loss_on=LossOn.all)
    assert sequence.labels == sequence.input_ids


def test_long_demonstrations_are_left_out(tiny_tokenizer):
    long = Demonstration(prompt=RECORD.prompt, response="red red red")
    assert len(encode(tiny_tokenizer, [long, RECORD], max_length=8)) == 1


def test_no_demonstration_that_fits_is_the_users_fault(tiny_tokenizer):
    with pytest.raises(UserError, match="max_length") as error:
        encode(tiny_tokenizer, [RECORD], max_length=7)
    assert "the shortest has 8 tokens" in error.value.got


def test_documents_carry_loss_throughout_and_are_cut(tiny_tokenizer):
    ids = tiny_tokenizer.convert_tokens_to_ids(["<bos>", "the", "cat", "<eos>"])
    more = tiny_tokenizer.convert_tokens_to_ids(["is", "red"])
    whole, cut = document_sequences([ids, [*ids[:3], *more, ids[3]]], 4)
    assert whole.input_ids == whole.labels == ids
    assert cut.input_ids == [*ids[:3], more[0]]
