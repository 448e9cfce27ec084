"""What a stage prints goes to its log file."""

import os
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TextIO

STREAMS = (1, 2)


@contextmanager
def output_to(log: Path) -> Iterator[None]:
    """Point this process's standard output and error at `log`, appended, while the block runs.

    It works on the file descriptors: libraries keep the stream objects they found when they were
    imported, and what C++ prints is caught too. A display in this process writes to `terminal()`.
    """
    _flush()
    saved = [os.dup(stream) for stream in STREAMS]
    target = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o644)
    try:
        for stream in STREAMS:
            os.dup2(target, stream)
        yield
    finally:
        _flush()
        for stream, original in zip(STREAMS, saved, strict=True):
            os.dup2(original, stream)
            os.close(original)
        os.close(target)


def terminal() -> TextIO:
    """A stream to where standard output points now, whatever is redirected later."""
    return os.fdopen(os.dup(STREAMS[0]), "w", buffering=1)


def _flush() -> None:
    sys.stdout.flush()
    sys.stderr.flush()
