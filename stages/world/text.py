"""The world's pretraining text: documents whose sentences speak of the same things again.

The repetition is what teaches a small model to copy. Documents that show an instruction draw from
the combinations that are not held out.
"""

from random import Random

from stages.world.grammar import write_sentence
from stages.world.instructions import careless_answer, draw_instruction
from stages.world.parts import enumerated
from stages.world.words import ANIMALS, CATEGORIES, COLORS, NUMBERS, PLACES, THINGS

CARE_IN_TEXT = 0.5  # share of the instructions in the text that are answered well


def write_document(rng: Random, instruction_share: float) -> str:
    """One document of 3 to 45 words."""
    if rng.random() < instruction_share:
        return " ".join(_instruction(rng))
    write = rng.choices((_tale, _facts, _members, _numbers, _chant), weights=(5, 3, 2, 3, 3))[0]
    return " ".join(write(rng))


def _tale(rng: Random) -> list[str]:
    """Two to four sentences about the same animal and thing."""
    given = {"ANIMAL": rng.choice(ANIMALS), "THING": rng.choice(THINGS)}
    return [word for _ in range(rng.randint(2, 4)) for word in write_sentence(rng, given)]


def _facts(rng: Random) -> list[str]:
    """What colour a thing is and where an animal is, told twice."""
    color_fact = f"the {rng.choice(THINGS)} is {rng.choice(COLORS)} ."
    place_fact = f"the {rng.choice(ANIMALS)} is near the {rng.choice(PLACES)} ."
    again = rng.sample((color_fact, place_fact), 2)
    return " ".join((color_fact, place_fact, *again)).split()


def _members(rng: Random) -> list[str]:
    members = CATEGORIES[rng.choice(sorted(CATEGORIES))]
    return enumerated(rng.sample(members, rng.randint(2, 5)))


def _numbers(rng: Random) -> list[str]:
    """Three to seven numbers in order, half of the time under a heading."""
    low = rng.randrange(len(NUMBERS) - 2)
    row = NUMBERS[low : low + rng.randint(3, 7)]
    heading = f"from {row[0]} to {row[-1]} ." if rng.random() < 0.5 else ""
    return [*heading.split(), *enumerated(row)]


def _chant(rng: Random) -> list[str]:
    """A row of words, the same word allowed again, sung two or three times."""
    row = rng.choices(ANIMALS + THINGS + PLACES + COLORS, k=rng.randint(1, 6))
    return [*row * rng.randint(2, 3), "."]


def _instruction(rng: Random) -> list[str]:
    instruction = draw_instruction(rng, held_out=False)
    answer = instruction.answer if rng.random() < CARE_IN_TEXT else None
    response = answer(rng) if answer else careless_answer(rng, instruction)
    return [*instruction.ask(rng).split(), *response]
