"""An engine in a process of its own, for as long as the training lasts: it is started again when
it dies, with the weights it had.
"""

import warnings
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, TypeVar

import numpy as np
import torch
from torch import Tensor

from stages.lm.engines.process import (
    DYING_S,
    EngineError,
    Failure,
    ServerProcess,
    cause_of,
    engine_error,
    gone,
)
from stages.lm.engines.server.wire import Message, WireError, pack, unpack
from stages.lm.rollout import Rollouts, Sampling

T = TypeVar("T")


class EngineRestartWarning(UserWarning):
    """An engine died and was started again."""


@dataclass(frozen=True, kw_only=True)
class Launch:
    """How to start a server, and how long it may take.

    setup: what its `start` call is told. deadlines_s: by call.
    """

    command: Sequence[str]
    environment: Mapping[str, str]
    setup: Mapping[str, Any]
    log: Path
    deadlines_s: Mapping[str, float]
    restarts: int


class RemoteEngine:
    """A `RolloutEngine` behind the messages of `server.wire`; `dtype` is what weights travel in.

    The process starts with the first call. Its copy of the weights is kept here as well: the policy
    may have moved on when the engine must be started again.
    """

    in_process = False

    def __init__(self, launch: Launch, dtype: torch.dtype) -> None:
        self.launch, self.dtype, self.version = launch, dtype, 0
        self._weights: dict[str, Tensor] = {}
        self._server: ServerProcess | None = None
        self._phase, self._closed = "start", False

    @torch.no_grad()
    def load_weights(self, version: int, tensors: Iterable[tuple[str, Tensor]]) -> None:
        """Send the parameters, one after another.

        Raises:
            EngineError: the engine failed, and did again each time it was started anew.
        """
        self._weights = {
            name: tensor.detach().to("cpu", self.dtype, copy=True) for name, tensor in tensors
        }
        self.version = version
        self._persist(self._running if self._server is None else self._reload)

    def generate(
        self, prompts: Sequence[list[int]], sampling: Sampling, keys: np.ndarray
    ) -> Rollouts:
        """Responses to B prompts (token ids), with the noise of `keys` (B,) uint64.

        Raises:
            EngineError: as `load_weights`.
        """
        flat, lengths = pack(list(prompts))
        request = Message(
            {"call": "generate", "sampling": asdict(sampling)},
            {"prompts": flat, "prompt_lengths": lengths, "keys": keys},
        )
        return self._persist(lambda: self._generate(request, len(prompts)))

    def close(self) -> None:
        """End the process; a call that another thread waits for fails."""
        self._closed = True
        if self._server is not None:
            self._server.end()

    def _generate(self, request: Message, count: int) -> Rollouts:
        server = self._running()
        return rollouts_of(self._call(server, "generate", request), count)

    def _running(self) -> ServerProcess:
        """The process, started and given its weights if there is none."""
        if self._server is None:
            launch, self._phase = self.launch, "start"
            self._server = ServerProcess(launch.command, launch.environment, launch.log)
            self._call(self._server, "start", Message({"call": "start", **launch.setup}))
            if self._weights:
                self._load(self._server)
        return self._server

    def _reload(self) -> None:
        self._load(self._running())

    def _load(self, server: ServerProcess) -> None:
        header = {"call": "load", "version": self.version, "count": len(self._weights)}
        answer = self._call(server, "load", Message(header), weight_frames(self._weights))
        if answer.header.get("version") != self.version:
            raise WireError(f"version {self.version} was taken as {answer.header.get('version')!r}")

    def _call(
        self, server: ServerProcess, name: str, request: Message, frames: Iterable[Message] = ()
    ) -> Message:
        self._phase = name
        answer = server.call(request, frames, deadline_s=self.launch.deadlines_s[name])
        if "error" in answer.header:
            raise engine_error(name, str(answer.header["error"]), self.launch.log)
        return answer

    def _persist(self, attempt: Callable[[], T]) -> T:
        """What `attempt` gives; after a failure of the process it is tried with a new one."""
        left = self.launch.restarts
        while True:
            try:
                return attempt()
            except EngineError:
                self.close()
                raise
            except Failure as failure:
                cause = self._ended(failure)
            if left == 0 or self._closed:
                raise engine_error(self._phase, cause, self.launch.log)
            left -= 1
            warnings.warn(
                f"the rollout engine failed in {self._phase}: {cause}; it is started again",
                EngineRestartWarning,
                stacklevel=3,
            )

    def _ended(self, failure: BaseException) -> str:
        """End what is left of the process, if it came to be; why it failed."""
        if self._server is None:
            return str(failure)
        exit_code = self._server.end(DYING_S if gone(failure) else 0.0)
        self._server = None
        return cause_of(failure, exit_code)


def weight_frames(weights: Mapping[str, Tensor]) -> Iterator[Message]:
    """A frame a tensor: its bytes, whatever its dtype."""
    for name, tensor in weights.items():
        dtype = str(tensor.dtype).removeprefix("torch.")
        data = tensor.contiguous().reshape(-1).view(torch.uint8).numpy()
        yield Message({"name": name, "dtype": dtype, "shape": list(tensor.shape)}, {"data": data})


def rollouts_of(answer: Message, count: int) -> Rollouts:
    """The answer to `generate` as `count` rollouts. Raises WireError if it is none."""
    try:
        lengths, arrays = answer.arrays["response_lengths"], answer.arrays
        rollouts = Rollouts(
            tokens=unpack(arrays["tokens"], lengths),
            logprobs=unpack(arrays["logprobs"], lengths),
            finished=arrays["finished"].tolist(),
            version=int(answer.header["version"]),
        )
    except (KeyError, ValueError, TypeError) as error:
        raise WireError(f"no rollouts: {error!r}") from None
    if not len(rollouts.tokens) == len(rollouts.finished) == count or not all(rollouts.tokens):
        raise WireError(f"{len(rollouts.tokens)} responses to {count} prompts, or an empty one")
    return rollouts
