from random import Random

import pytest

from stages.world.grammar import COLOR_FACT, PATTERNS, SLOTS, is_sentence, write_sentence


@pytest.mark.parametrize(
    "text",
    [
        "the fox saw the kite .",
        "the red fox saw the kite .",
        "one day the owl lost a tiny bell .",
        "the mouse ran to the park with the drum .",
        "the dog found a blue hat near the river .",
        "the green cat wept at the cup .",
        "the cat wept near the school with the cup .",
    ],
)
def test_sentences_of_every_pattern_are_recognised(text):
    assert is_sentence(text.split())


@pytest.mark.parametrize(
    "text",
    [
        "",
        ".",
        "the fox saw the kite",  # no full stop
        "the kite saw the fox .",  # a thing does not see
        "the fox saw saw the kite .",
        "fox the saw the kite .",
        "the red blue fox saw the kite .",
        "the fox saw the kite . the fox saw the kite .",  # two of them
    ],
)
def test_what_breaks_the_grammar_is_not_a_sentence(text):
    assert not is_sentence(text.split())


@pytest.mark.parametrize("pattern", PATTERNS)
def test_what_a_pattern_writes_it_recognises(pattern):
    rng = Random(0)
    assert all(is_sentence(write_sentence(rng, {}, (pattern,)), (pattern,)) for _ in range(50))


def test_given_words_are_used_and_the_others_vary():
    rng = Random(0)
    written = [write_sentence(rng, {"ANIMAL": "owl", "THING": "bell"}) for _ in range(50)]
    assert all("owl" in words and "bell" in words for words in written)
    assert len({tuple(words) for words in written}) > 20


def test_a_fact_is_no_sentence_of_a_story():
    assert is_sentence(["the", "cup", "is", "red", "."], (COLOR_FACT,))
    assert not is_sentence(["the", "cup", "is", "red", "."])


def test_slots_and_plain_words_do_not_mix():
    plain = {s for p in PATTERNS for s in p.split() if s.lstrip("?") not in SLOTS}
    assert all(word.islower() or word == "." for word in plain)
