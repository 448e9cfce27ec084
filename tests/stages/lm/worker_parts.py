"""What ranks hold in the tests of Ray's worker groups."""

import os
import signal
import sys
import time
from typing import Any

from stages.lm.optimisation import NonFiniteError


class Part:
    """Adds over ranks; fails in all the ways a rank can fail."""

    def __init__(self, offset: float) -> None:
        self.offset = offset

    def total(self, number: float) -> float:
        """The sum over ranks, plus the offset."""
        import torch
        import torch.distributed as dist

        tensor = torch.tensor(number)
        dist.all_reduce(tensor)
        return float(tensor) + self.offset

    def rank(self) -> int:
        import torch.distributed as dist

        return dist.get_rank()

    def sleeps(self, seconds: float) -> str:
        time.sleep(seconds)
        return "awake"

    def diverges(self) -> None:
        raise NonFiniteError("the loss is nan")

    def dies_or_waits(self, dies: bool) -> Any:
        """The other rank waits in a collective for the one that is killed."""
        if dies:
            sys.stderr.write("the last words\n")
            sys.stderr.flush()
            os.kill(os.getpid(), signal.SIGKILL)
        return self.total(1.0)


def build(offset: float) -> dict[str, object]:
    return {"part": Part(offset)}
