"""How a user's mistake is shown: what is wrong, what was found, what to do; never a traceback."""

import os
import sys
from collections.abc import Callable, Sequence

from stages.contracts import InterruptedRunError, UserError
from stages.contracts import closest as closest
from stages.contracts import nearest as nearest

STAGE_FAILED, USER_FAULT, INTERRUPTED = 1, 2, 130


class FaultsError(UserError):
    """Several mistakes reported together, so that they can be mended in one go."""

    def __init__(self, faults: Sequence[UserError]) -> None:
        super().__init__("\n".join(str(fault) for fault in faults))
        self.faults = list(faults)

    def __reduce__(self) -> tuple[type["FaultsError"], tuple[list[UserError]]]:
        return FaultsError, (self.faults,)


class StageFailedError(UserError):
    """A stage raised something that is no user's mistake; its log has the traceback."""


def raise_faults(faults: Sequence[UserError]) -> None:
    """Raise what was found, if anything was found."""
    if len(faults) == 1:
        raise faults[0]
    if faults:
        raise FaultsError(faults)


def exit_code(run: Callable[[], int]) -> int:
    """Run a command; a user's mistake or an interrupt becomes a message and an exit code."""
    try:
        return run()
    except UserError as error:
        faults = error.faults if isinstance(error, FaultsError) else [error]
        sys.stderr.write("".join(f"error: {fault}\n" for fault in faults))
        failed = any(isinstance(fault, StageFailedError) for fault in faults)
        return STAGE_FAILED if failed else USER_FAULT
    except BrokenPipeError:  # the reader of our output, `head` for one, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 0
    except (KeyboardInterrupt, InterruptedRunError) as stopped:
        sys.stderr.write(f"{stopped or 'interrupted'}\n")
        return INTERRUPTED
