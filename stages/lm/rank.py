"""One process of a worker group: it meets the others, holds parts, and calls their methods.

No Ray here: `stages.lm.workers` makes actors of it, tests make plain processes.
"""

import os
import sys
import threading
import traceback
from collections.abc import Callable, Mapping
from dataclasses import fields, is_dataclass, replace
from datetime import timedelta
from typing import Any

from stages.contracts import GroupShape

Parts = Mapping[str, object]


class Rank:
    """A member of a group; every rank is asked the same things in the same order.

    Once it joined, tensors are made on its own device, and what it is given is moved there.
    """

    def __init__(self) -> None:
        self._store: Any = None
        self._parts: Parts = {}
        self._device: Any = None
        self._is_first = False

    def open(self, host: str, size: int) -> int:
        """Of rank 0: open the store where the ranks meet; its port."""
        self._store = _store(host, 0, size, is_master=True)
        port: int = self._store.port
        return port

    def join(self, rank: int, shape: GroupShape, host: str, port: int) -> None:
        """Meet the others, for the life of this process."""
        import torch
        from torch.distributed import init_process_group

        if self._store is None:
            self._store = _store(host, port, shape.processes, is_master=False)
        self._is_first = rank == 0
        _tell_libraries(rank, shape.processes, host, port)
        self._device = torch.device("cuda" if shape.gpus > 0 else "cpu")
        if shape.gpus > 0:
            torch.set_default_device(self._device)
        init_process_group(
            "nccl" if shape.gpus > 0 else "gloo",
            store=self._store,
            rank=rank,
            world_size=shape.processes,
            timeout=timedelta(seconds=shape.call_s),
        )

    def build(self, factory: Callable[..., Parts], *arguments: Any) -> None:
        """Hold what the factory makes; what was held before is let go first."""
        self._parts = {}
        self._parts = factory(*arguments)

    def call(self, part: str, method: str, *arguments: Any) -> Any:
        """Call a method of a part; tensors come and go by way of the CPU."""
        bound = getattr(self._parts[part], method)
        return moved(bound(*moved(arguments, self._device)), "cpu")

    def call_for_first(self, part: str, method: str, *arguments: Any) -> Any:
        """The same on every rank, answered by the first alone."""
        answer = self.call(part, method, *arguments)
        return answer if self._is_first else None

    def stack(self) -> str:
        """What the other threads of this process are doing."""
        own, frames = threading.get_ident(), sys._current_frames()
        names = {thread.ident: thread.name for thread in threading.enumerate()}
        return "\n".join(
            f"thread {names.get(ident, ident)}:\n{''.join(traceback.format_stack(frame))}"
            for ident, frame in frames.items()
            if ident != own
        )


def _store(host: str, port: int, size: int, *, is_master: bool) -> Any:
    """Port 0: a free one."""
    from torch.distributed import TCPStore  # type: ignore[attr-defined]  # not in its __all__

    return TCPStore(host, port, size, is_master=is_master, wait_for_workers=False)


def _tell_libraries(rank: int, size: int, host: str, port: int) -> None:
    """What DeepSpeed looks for; every rank sees its own devices only, so it is the first there."""
    os.environ |= {
        "RANK": str(rank),
        "LOCAL_RANK": "0",
        "WORLD_SIZE": str(size),
        "MASTER_ADDR": host,
        "MASTER_PORT": str(port),
    }


def moved(value: Any, device: Any) -> Any:
    """The same value with every tensor in it on `device`."""
    from torch import Tensor

    if isinstance(value, Tensor):
        return value.to(device)
    if isinstance(value, dict):
        return {key: moved(item, device) for key, item in value.items()}
    if isinstance(value, tuple):
        return tuple(moved(item, device) for item in value)
    if is_dataclass(value) and not isinstance(value, type):
        named = {spec.name: getattr(value, spec.name) for spec in fields(value)}
        tensors = {name: moved(item, device) for name, item in named.items()}
        return replace(value, **tensors)
    return value
