"""A server process and the calls to it: every one has a deadline, every death leaves a trace."""

import os
import signal
import socket
import subprocess
import time
from collections.abc import Iterable, Mapping, Sequence
from contextlib import suppress
from pathlib import Path

from stages.contracts import UserError
from stages.lm.engines.server.wire import Channel, Message, WireError

LOG_LINES = 20
DYING_S = 5.0  # how long a process that hung up may take to be gone

Failure = (EOFError, OSError, WireError)  # TimeoutError is an OSError


class EngineError(UserError):
    """An engine that does not answer as it should, with the last lines of its log."""


class ServerProcess:
    """One process from its start to its death; it is handed the number of its socket.

    It ends by itself when this process does: the socket then hangs up.
    """

    def __init__(self, command: Sequence[str], environment: Mapping[str, str], log: Path) -> None:
        ours, theirs = socket.socketpair()
        self.channel, self._calls = Channel(ours), 0
        try:
            with theirs, log.open("ab") as output:
                self.process = subprocess.Popen(
                    [*command, str(theirs.fileno())],
                    pass_fds=[theirs.fileno()],
                    stdin=subprocess.DEVNULL,
                    stdout=output,
                    stderr=subprocess.STDOUT,
                    env=dict(environment),
                    start_new_session=True,  # ctrl-C is for the trainer, which then closes it
                )
        except OSError:
            ours.close()
            raise

    def call(
        self, request: Message, frames: Iterable[Message] = (), *, deadline_s: float
    ) -> Message:
        """The answer to a call, which `frames` may follow. Raises one of `Failure`."""
        self._calls += 1
        deadline = time.monotonic() + deadline_s
        header = {**request.header, "id": self._calls}
        self.channel.send(Message(header, request.arrays), deadline)
        for frame in frames:
            self.channel.send(frame, deadline)
        answer = self.channel.receive(deadline)
        if answer.header.get("id") != self._calls:
            raise WireError(f"call {self._calls} was answered as {answer.header.get('id')!r}")
        return answer

    def end(self, patience_s: float = 0.0) -> int:
        """End the process; the exit code, negative for the signal it died of.

        patience_s: how long it may take to end by itself, now that its socket hung up.
        """
        with suppress(OSError):
            self.channel.connection.shutdown(socket.SHUT_RDWR)  # wakes a thread that reads
        self.channel.connection.close()
        try:
            return self.process.wait(patience_s)
        except subprocess.TimeoutExpired:
            os.killpg(self.process.pid, signal.SIGKILL)
            return self.process.wait()


def engine_error(phase: str, cause: str, log: Path) -> EngineError:
    """The error a user sees: where, why, and what the process said last."""
    text = log.read_text(errors="replace") if log.exists() else ""
    lines = "\n".join(f"    {line}" for line in text.splitlines()[-LOG_LINES:])
    return EngineError(
        f"the rollout engine failed in {phase}",
        got=f"{cause}; the end of {log}:\n{lines}",
        do=f"read the whole log; rollout.{phase}_s is how long the engine may take",
    )


def gone(failure: BaseException) -> bool:
    """Whether the process ended by itself, or is about to."""
    return not isinstance(failure, TimeoutError | WireError)


def cause_of(failure: BaseException, exit_code: int) -> str:
    """What happened, in words."""
    if isinstance(failure, TimeoutError):
        return "no answer before the deadline"
    if isinstance(failure, WireError):
        return f"an answer that is none: {failure}"
    if exit_code < 0:
        return f"the process died of {signal.Signals(-exit_code).name}"
    return f"the process ended with exit code {exit_code}"
