from random import Random

import numpy as np
import pytest

from stages.world.gold import gold_reward
from stages.world.instructions import careless_answer, draw_instruction

PROMPT = [{"role": "user", "content": "say kite two times ."}]


def test_gold_reads_the_prompt_and_halves_what_is_cut_off():
    assert gold_reward(PROMPT, "kite kite .", True) == 1
    assert gold_reward(PROMPT, "kite kite .", False) == 0.5
    assert gold_reward(PROMPT, "", True) == 0


def test_the_last_message_is_what_is_asked():
    earlier = [
        {"role": "user", "content": "list two fruits ."},
        {"role": "assistant", "content": "pear , plum ."},
    ]
    assert gold_reward(earlier + PROMPT, "kite kite .", True) == 1


def test_an_unknown_instruction_is_an_error():
    with pytest.raises(ValueError, match="knows no such instruction"):
        gold_reward([{"role": "user", "content": "hello"}], "kite", True)


def test_gold_is_no_function_of_length():
    """Over careful and careless answers alike, length tells next to nothing of gold."""
    rng = Random(0)
    lengths, golds = [], []
    for _ in range(4000):
        instruction = draw_instruction(rng, held_out=False)
        careful = rng.random() < 0.35
        words = instruction.answer(rng) if careful else careless_answer(rng, instruction)
        prompt = [{"role": "user", "content": instruction.ask(rng)}]
        lengths.append(len(words) - len(instruction.answer(rng)))
        golds.append(gold_reward(prompt, " ".join(words), True))
    assert abs(np.corrcoef(lengths, golds)[0, 1]) < 0.2
