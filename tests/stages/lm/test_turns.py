"""The assistant's tokens of a conversation against masks made by hand."""

import pytest

from stages.contracts import UserError
from stages.lm.chat import PLAIN_TURNS
from stages.lm.tokens import encode_prompt
from stages.lm.turns import encode_turns
from stages.lm.vocabulary import bpe_tokenizer
from stages.records.schemas import Demonstration
from stages.step1_sft.config import LossOn
from stages.step1_sft.sequences import encode_demonstrations

TALK = [
    {"role": "user", "content": "the cat"},
    {"role": "assistant", "content": "red dog"},
    {"role": "user", "content": "the dog"},
    {"role": "assistant", "content": "the dog"},
    {"role": "user", "content": "red dog"},
]
WRITTEN = (
    "<bos> <user> the cat <assistant> red dog <eos> "
    "<user> the dog <assistant> the dog <eos> <user> red dog <assistant>"
)
SAID = [*[0] * 5, 1, 1, 1, *[0] * 4, 1, 1, 1, *[0] * 4]


def test_of_words(tiny_tokenizer):
    """What the user says in the same words is not taken for it."""
    tokens, said = encode_turns(tiny_tokenizer, TALK)
    assert " ".join(tiny_tokenizer.convert_ids_to_tokens(tokens)) == WRITTEN
    assert [int(mark) for mark in said] == SAID


@pytest.mark.parametrize("template", [None, PLAIN_TURNS])
def test_of_byte_pairs(template):
    tokenizer = bpe_tokenizer(["the cat red dog ball"], 300)
    if template:
        tokenizer.chat_template = template
    tokens, said = encode_turns(tokenizer, TALK)
    assert tokens == encode_prompt(tokenizer, TALK)
    spoken = tokenizer.decode([t for t, own in zip(tokens, said, strict=True) if own])
    assert spoken == "red dog<eos>the dog<eos>"


def test_a_template_that_hides_earlier_turns_is_refused(tiny_tokenizer):
    import copy

    tokenizer = copy.deepcopy(tiny_tokenizer)
    tokenizer.chat_template = (
        "{% for m in messages %}{% if m['role'] == 'user' %}{{ m['content'] }} {% endif %}"
        "{% endfor %}{% if add_generation_prompt %}<assistant>{% endif %}"
    )
    with pytest.raises(UserError, match="as it was said"):
        encode_turns(tokenizer, TALK)


def test_labels_of_a_demonstration_with_earlier_turns(tiny_tokenizer):
    """Three choices for one record: the response; the assistant's turns too; everything."""
    record = Demonstration(prompt=TALK[:3], response="blue")
    counted = {}
    for choice in LossOn:
        (sequence,) = encode_demonstrations(tiny_tokenizer, [record], max_length=64, loss_on=choice)
        labelled = [token for token in sequence.labels if token != -100]
        counted[choice] = " ".join(tiny_tokenizer.convert_ids_to_tokens(labelled))
    assert counted[LossOn.completion] == "blue <eos>"
    assert counted[LossOn.assistant] == "red dog <eos> blue <eos>"
    whole = "<bos> <user> the cat <assistant> red dog <eos> <user> the dog <assistant> blue <eos>"
    assert counted[LossOn.all] == whole
