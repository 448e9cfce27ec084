"""A worker group of plain processes: forks of a server that has paid the imports once."""

import multiprocessing
import os
import pickle
import sys
import time
import traceback
from collections.abc import Callable, Mapping, Sequence
from multiprocessing.connection import Connection, wait
from typing import Any

from stages.contracts import GroupShape, WorkerError
from stages.lm.rank import Rank

PRELOADED = (
    "torch.nn.parallel",
    "torch.distributed.fsdp",
    "transformers.models.llama.modeling_llama",
    "stages.step3_policy.ppo.groups",
    "stages.step2_reward.learning",
    __name__,
)
DEADLINE_S = 60.0


class ProcessGroup:
    """What `WorkerGroup` says, over pipes; `close` ends the processes."""

    def __init__(self, processes: int, name: str = "all") -> None:
        os.environ["PYTHONPATH"] = os.pathsep.join(sys.path)
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(list(PRELOADED))
        self.shape = GroupShape(name=name, processes=processes, cpus=1.0, call_s=DEADLINE_S)
        self._pipes: list[Connection] = []
        self._processes = []
        for _ in range(processes):
            ours, theirs = context.Pipe()
            process = context.Process(target=serve, args=(theirs,), daemon=True)
            process.start()
            theirs.close()
            self._pipes.append(ours)
            self._processes.append(process)
        (port,) = self._ask(self._pipes[:1], "open", [("127.0.0.1", processes)])
        joins = [(rank, self.shape, "127.0.0.1", port) for rank in range(processes)]
        self._ask(self._pipes, "join", joins)

    def build(self, factory: Callable[..., Mapping[str, object]], *arguments: Any) -> None:
        self._ask(self._pipes, "build", [(factory, *arguments)] * len(self._pipes))

    def call(self, part: str, method: str, arguments: Sequence[tuple[Any, ...]]) -> list[Any]:
        return self._ask(self._pipes, "call", [(part, method, *a) for a in arguments])

    def call_for_first(self, part: str, method: str, *arguments: Any) -> Any:
        given = [(part, method, *arguments)] * len(self._pipes)
        return self._ask(self._pipes, "call_for_first", given)[0]

    def close(self) -> None:
        for process in self._processes:
            process.kill()
            process.join()

    def _ask(
        self, pipes: list[Connection], method: str, arguments: Sequence[tuple[Any, ...]]
    ) -> list[Any]:
        """Send to all, take answers as they come: a failed rank leaves others waiting for it."""
        for pipe, given in zip(pipes, arguments, strict=True):
            pipe.send_bytes(pickle.dumps((method, given)))
        answers: dict[int, Any] = {}
        end = time.monotonic() + DEADLINE_S
        while len(answers) < len(pipes):
            missing = [pipe for rank, pipe in enumerate(pipes) if rank not in answers]
            ready = wait(missing, timeout=max(0.0, end - time.monotonic()))
            if not ready:
                raise WorkerError(f"no answer to {method} {arguments[0][:2]}")
            for pipe in ready:
                error, trace, answer = pickle.loads(pipe.recv_bytes())
                if error is not None:
                    raise error from WorkerError(trace)
                answers[pipes.index(pipe)] = answer
        return [answers[rank] for rank in range(len(pipes))]


def serve(pipe: Connection) -> None:
    """Answer until the other end is gone."""
    import torch

    torch.set_num_threads(1)
    rank = Rank()
    while True:
        try:
            method, given = pickle.loads(pipe.recv_bytes())
        except EOFError:
            return
        try:
            answer = (None, "", getattr(rank, method)(*given))
        except Exception as error:  # noqa: BLE001  # whatever it is, the other end raises it
            answer = (error, traceback.format_exc(), None)
        pipe.send_bytes(pickle.dumps(answer))
