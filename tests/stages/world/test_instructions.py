from random import Random

import pytest

from stages.world.instructions import (
    KINDS,
    careless_answer,
    draw_instruction,
    is_held_out,
    parse_instruction,
)

MANY = 300


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_every_wording_of_a_request_is_read_back(kind):
    rng = Random(0)
    for _ in range(MANY):
        instruction = kind.draw(rng)
        assert parse_instruction(instruction.ask(rng)) == instruction


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_an_answer_is_perfect_and_a_careless_one_is_not(kind):
    """Red when a criterion of `quality` is turned round."""
    rng = Random(1)
    for _ in range(MANY):
        instruction = kind.draw(rng)
        assert instruction.quality(instruction.answer(rng)) == 1
        assert 0 <= instruction.quality(careless_answer(rng, instruction)) < 1


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_no_answer_is_worth_nothing(kind):
    rng = Random(2)
    assert kind.draw(rng).quality([]) == 0


@pytest.mark.parametrize("kind", KINDS, ids=lambda kind: kind.__name__)
def test_words_in_another_order_are_worth_less(kind):
    """The same words, so the same length: unless the order is as good, gold is lost."""
    rng = Random(3)
    lost, shuffled_differently = 0, 0
    for _ in range(MANY):
        instruction = kind.draw(rng)
        answer = instruction.answer(rng)
        words = rng.sample(answer, len(answer))
        if words != answer:
            shuffled_differently += 1
            lost += instruction.quality(words) < 1
    assert lost > 0.9 * shuffled_differently


TOLD = "the cup is red . the owl is near the river ."
FACTS = "the cup is red . the owl is near the river ."
QUALITIES = [
    ("write about the fox and the kite .", "the fox saw the kite .", 1),
    ("write about the fox and the kite .", "the fox saw the kite", 2 / 4),
    ("write about the fox and the kite .", "the owl saw the kite .", 3 / 4),
    ("tell me about the fox and the kite near the park .", "the fox saw the kite .", 5 / 6),
    ("give me one sad line about the owl and the bell .", "the owl wept at the bell .", 1),
    ("give me one sad line about the owl and the bell .", "the owl smiled at the bell .", 4 / 6),
    ("list two fruits .", "pear , plum .", 1),
    ("list two fruits .", "pear plum .", 6 / 8),
    ("list two fruits .", "pear , pear .", 6 / 8),
    ("name two fruits but not plum .", "pear , plum .", 6 / 8),
    ("name two fruits .", "pear , hammer .", 6 / 8),
    ("list three fruits .", "pear , plum .", 6 / 8),
    ("count from two to four .", "two , three , four .", 1),
    ("count from two to four .", "two , three .", 6 / 8),
    ("count from two to four .", "two , four .", 6 / 8),
    ("go from two to four .", "one , two , three .", 4 / 8),
    ("say kite two times .", "kite kite .", 1),
    ("repeat kite two times .", "kite kite kite .", 3 / 5),
    ("say kite two times .", "kite hat .", 3 / 5),
    (f"{TOLD} where is the owl ?", "the owl is near the river .", 1),
    (f"{TOLD} where is the owl ?", "the cup is red .", 0),
    (f"{TOLD} what color is the cup ?", "the cup is red .", 1),
    (f"{TOLD} what color is the cup ?", "the cup is blue .", 3 / 5),
]  # fmt: skip


@pytest.mark.parametrize(("prompt", "completion", "expected"), QUALITIES)
def test_qualities_worked_by_hand(prompt, completion, expected):
    assert parse_instruction(prompt).quality(completion.split()) == pytest.approx(expected)


@pytest.mark.parametrize(
    "text",
    [
        "write a poem .",
        "list two planets .",
        "list none fruits .",
        "list two fruits but not hammer .",
        "count from four to two .",
        "say kite .",
        "the cup is red . the owl is near the river . where is the fox ?",
        "write about the kite and the fox .",
    ],
)
def test_requests_the_world_does_not_know_are_refused(text):
    with pytest.raises(ValueError, match="knows no such instruction"):
        parse_instruction(text)


def test_held_out_combinations_are_a_fifth_and_never_drawn_for_training():
    rng = Random(4)
    assert not any(is_held_out(draw_instruction(rng, held_out=False)) for _ in range(MANY))
    assert all(is_held_out(draw_instruction(rng, held_out=True)) for _ in range(MANY))
    drawn = [rng.choice(KINDS).draw(rng) for _ in range(5000)]
    assert 0.12 < sum(map(is_held_out, drawn)) / len(drawn) < 0.28
