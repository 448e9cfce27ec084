"""What a stage leaves in a process that goes on: nothing that another process could use."""

import ctypes
import gc


def give_memory_back() -> None:
    """Give the operating system what the process holds and does not use.

    The C library keeps what tensors free, gigabytes after a stage of training: beside them the next
    stage's peak would stand, and an idle worker would keep them. Without glibc nothing is done.
    """
    gc.collect()
    trim = getattr(ctypes.CDLL(None), "malloc_trim", None)
    if trim is not None:
        trim(0)
