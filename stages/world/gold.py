"""The gold reward: what a completion is truly worth, known in this world and in no real one."""

from stages.records.schemas import Message
from stages.world.instructions import parse_instruction

UNFINISHED = 0.5  # the worth of a response that was cut off, as a share of its quality


def gold_reward(prompt: list[Message], completion: str, finished: bool) -> float:
    """How well the completion does what the last user message asks, in [0, 1]; 1 is perfect.

    Reads the prompt's own text; ValueError if the world knows no such instruction. What counts is
    whether the response does what was asked, not its length.
    """
    quality = parse_instruction(prompt[-1]["content"]).quality(completion.split())
    return quality if finished else UNFINISHED * quality
