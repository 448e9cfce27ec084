"""Who asks the world for what: users, their prompts, and the demonstrations of writers."""

from collections.abc import Iterator
from itertools import count
from random import Random

from stages.records.schemas import Demonstration, Message, Prompt
from stages.world.instructions import Instruction, careless_answer, draw_instruction

MAX_PROMPTS_PER_USER = 12
# Writers differ in care: these are added to the mean share of demonstrations without a flaw.
WRITERS = {"writer-0": -0.2, "writer-1": -0.1, "writer-2": 0.0, "writer-3": 0.1, "writer-4": 0.2}


def draw_prompts(rng: Random, number: int, *, split: str, held_out: bool) -> list[Prompt]:
    """`number` prompts of users who appear in this split only."""
    asked = _asked_by_users(rng, split, held_out)
    return [
        Prompt(prompt=messages, user=user)
        for (user, _, messages), _ in zip(asked, range(number), strict=False)
    ]


def draw_demonstrations(
    rng: Random, number: int, *, care: float, split: str, held_out: bool
) -> list[Demonstration]:
    """`number` demonstrations; a share of about `care` of them has no flaw."""
    asked = _asked_by_users(rng, split, held_out)
    return [_demonstrate(rng, *next(asked), care=care) for _ in range(number)]


def _demonstrate(
    rng: Random, user: str, instruction: Instruction, messages: list[Message], *, care: float
) -> Demonstration:
    writer = rng.choice(sorted(WRITERS))
    careful = rng.random() < min(1.0, max(0.0, care + WRITERS[writer]))
    words = instruction.answer(rng) if careful else careless_answer(rng, instruction)
    return Demonstration(prompt=messages, response=" ".join(words), user=user, labeler=writer)


def _asked_by_users(
    rng: Random, split: str, held_out: bool
) -> Iterator[tuple[str, Instruction, list[Message]]]:
    """Without end: one user after another, each with one to a dozen prompts."""
    for user in count():
        for _ in range(rng.randint(1, MAX_PROMPTS_PER_USER)):
            instruction = draw_instruction(rng, held_out=held_out)
            message = {"role": "user", "content": instruction.ask(rng)}
            yield f"{split}-user-{user}", instruction, [message]
