from random import Random

from stages.world.gold import gold_reward
from stages.world.instructions import is_held_out, parse_instruction
from stages.world.prompts import WRITERS, draw_demonstrations, draw_prompts
from stages.world.text import write_document


def _words(number, instruction_share):
    rng = Random(0)
    return [write_document(rng, instruction_share).split() for _ in range(number)]


def test_documents_are_short_and_the_vocabulary_is_small():
    documents = _words(3000, 0.3)
    assert all(3 <= len(words) <= 45 for words in documents)
    vocabulary = {word for words in documents for word in words}
    assert 100 <= len(vocabulary) <= 200


def test_text_holds_every_word_of_prompts_and_demonstrations():
    vocabulary = {word for words in _words(4000, 0.3) for word in words}
    for held_out in (False, True):
        for record in draw_demonstrations(Random(1), 500, care=0.5, split="x", held_out=held_out):
            text = f"{record.prompt[0]['content']} {record.response}"
            assert set(text.split()) <= vocabulary


def test_words_come_again_in_a_document_which_is_what_teaches_copying():
    documents = [words for words in _words(2000, 0.0) if len(words) > 12]
    again = [1 - len(set(words)) / len(words) for words in documents]
    assert sum(again) / len(again) > 0.35


def test_prompts_keep_to_their_combinations_and_their_users():
    train = draw_prompts(Random(0), 400, split="train", held_out=False)
    test = draw_prompts(Random(0), 400, split="test", held_out=True)
    for prompts, held_out in ((train, False), (test, True)):
        assert len(prompts) == 400
        asked = [parse_instruction(prompt.prompt[-1]["content"]) for prompt in prompts]
        assert all(is_held_out(instruction) == held_out for instruction in asked)
        assert len({type(instruction) for instruction in asked}) >= 5
    users = [{prompt.user for prompt in prompts} for prompts in (train, test)]
    assert not users[0] & users[1]
    assert 30 < len(users[0]) < 150


def test_demonstrations_are_of_mixed_quality_and_their_writers_of_different_care():
    records = draw_demonstrations(Random(0), 4000, care=0.35, split="train", held_out=False)
    perfect = {name: [0, 0] for name in WRITERS}
    for record in records:
        counts = perfect[record.labeler]
        counts[0] += gold_reward(record.prompt, record.response, True) == 1
        counts[1] += 1
    shares = {name: right / total for name, (right, total) in perfect.items()}
    for name, share in shares.items():
        assert abs(share - (0.35 + WRITERS[name])) < 0.06
