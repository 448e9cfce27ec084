"""Stages one after another in this process: for debuggers, profilers and machines without Ray."""

from collections import deque
from dataclasses import replace
from types import TracebackType
from typing import Self

from pipeline.executors.entry import run_stage
from pipeline.executors.protocol import Outcome, StageRequest


class LocalExecutor:
    """Runs a request when its end is asked for."""

    parallel = 1
    greeting = ""

    def __init__(self, gpus: float = 0.0) -> None:
        self._gpus = gpus
        self._waiting: deque[StageRequest] = deque()

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._waiting.clear()

    def submit(self, request: StageRequest) -> None:
        """Take a request."""
        self._waiting.append(replace(request, gpus=self._gpus))

    def finished(self, timeout_s: float) -> list[Outcome]:  # noqa: ARG002  # a stage takes its time
        """Run the next request to its end."""
        return [run_stage(self._waiting.popleft())] if self._waiting else []
