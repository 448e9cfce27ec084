from pathlib import Path

import pytest

from stages.lm.vocabulary import SPECIALS, word_tokenizer

TEXTS = ["the cat saw the dog .", "the dog ran"]


@pytest.fixture(scope="module")
def tokenizer():
    return word_tokenizer(TEXTS)


def test_ids_are_specials_then_words_by_frequency_then_alphabet(tokenizer):
    words = ["the", "dog", ".", "cat", "ran", "saw"]
    assert tokenizer.convert_ids_to_tokens(range(len(tokenizer))) == [*SPECIALS, *words]


def test_plain_encoding_adds_nothing_and_decoding_gives_the_text_back(tokenizer):
    ids = tokenizer("the cat saw the dog .")["input_ids"]
    assert tokenizer.convert_ids_to_tokens(ids) == ["the", "cat", "saw", "the", "dog", "."]
    assert tokenizer.decode(ids) == "the cat saw the dog ."


def test_unknown_words_and_words_beyond_the_limit_are_unk(tokenizer):
    unk = tokenizer.unk_token_id
    assert tokenizer("zebra")["input_ids"] == [unk]
    assert word_tokenizer(TEXTS, max_words=1)("the dog")["input_ids"] == [len(SPECIALS), unk]


def test_special_tokens_in_the_text_keep_their_ids_and_pad_is_not_eos(tokenizer):
    encoded = tokenizer("<bos> the <eos>")["input_ids"]
    assert encoded == [tokenizer.bos_token_id, len(SPECIALS), tokenizer.eos_token_id]
    assert tokenizer.pad_token_id not in encoded
    assert tokenizer.decode(encoded, skip_special_tokens=True) == "the"


def test_chat_template_ends_with_the_assistant_mark(tokenizer):
    turns = [
        {"role": "user", "content": "the cat"},
        {"role": "assistant", "content": "ran"},
        {"role": "user", "content": "the dog"},
    ]
    text = tokenizer.apply_chat_template(turns, tokenize=False, add_generation_prompt=True)
    assert text == "<bos> <user> the cat <assistant> ran <eos> <user> the dog <assistant>"
    ids = tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in ids
    assert tokenizer.decode(ids) == text


def test_saved_and_loaded_it_is_the_same(tokenizer, tmp_path: Path):
    from transformers import AutoTokenizer

    tokenizer.save_pretrained(tmp_path)
    loaded = AutoTokenizer.from_pretrained(tmp_path)
    assert loaded.get_vocab() == tokenizer.get_vocab()
    assert loaded.chat_template == tokenizer.chat_template
    assert loaded.decode(loaded("the cat saw .")["input_ids"]) == "the cat saw ."
