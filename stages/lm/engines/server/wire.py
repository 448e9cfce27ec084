"""Messages between a trainer and a rollout engine in a process of its own: JSON and raw arrays.

A frame is a prefix (magic, length of the header, length of the body), the header as JSON, and the
body: the bytes of the arrays that the header lists, one after another. No pickle: nothing that is
received can run. Only the standard library and NumPy are imported here, because the engine's own
environment reads this file too.

    start     {model, dtype, ...}                                        -> {}
    load      {version, count}, then `count` frames, a tensor each       -> {version}
    generate  {sampling}  prompts, prompt_lengths, keys
              -> {version}  tokens, logprobs, response_lengths, finished

Each call is answered by one frame with its id: what it asks for, or {"error": text}.
"""

import json
import socket
import struct
import time
import traceback
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

MAGIC = b"RLE1"
PREFIX = struct.Struct("!4sIQ")
LARGEST_HEADER = 2**24
LARGEST_BODY = 2**40
DTYPES = ("bool", "uint8", "int64", "uint64", "float32")

Header = dict[str, Any]
Arrays = Mapping[str, np.ndarray]


class WireError(Exception):
    """Bytes that are no message of this protocol."""


@dataclass(frozen=True)
class Message:
    """A header and named arrays."""

    header: Header
    arrays: dict[str, np.ndarray] = field(default_factory=dict)


class Channel:
    """Frames over a connected stream socket. Deadlines are times of `time.monotonic`, or None."""

    def __init__(self, connection: socket.socket) -> None:
        self.connection = connection

    def send(self, message: Message, deadline: float | None = None) -> None:
        """Send one frame. Raises TimeoutError, and OSError where nobody listens any more."""
        arrays = {name: np.ascontiguousarray(array) for name, array in message.arrays.items()}
        listed = [[name, str(array.dtype), array.shape] for name, array in arrays.items()]
        header = json.dumps({**message.header, "arrays": listed}).encode()
        size = sum(array.nbytes for array in arrays.values())
        self._wait_until(deadline)
        self.connection.sendall(PREFIX.pack(MAGIC, len(header), size) + header)
        for array in arrays.values():
            self._wait_until(deadline)
            self.connection.sendall(array.reshape(-1).view(np.uint8).data)

    def receive(self, deadline: float | None = None) -> Message:
        """The next frame. Raises EOFError at the end, TimeoutError and WireError."""
        magic, header_size, body_size = PREFIX.unpack(self._read(PREFIX.size, deadline))
        if magic != MAGIC or header_size > LARGEST_HEADER or body_size > LARGEST_BODY:
            raise WireError(f"no frame begins with {magic!r}, {header_size}, {body_size}")
        try:
            header = json.loads(bytes(self._read(header_size, deadline)))
            listed = [(str(n), str(d), tuple(map(int, s))) for n, d, s in header.pop("arrays")]
        except (ValueError, TypeError, KeyError, AttributeError) as error:
            raise WireError(f"a header that cannot be read: {error}") from None
        return Message(header, _arrays(listed, self._read(body_size, deadline)))

    def _read(self, size: int, deadline: float | None) -> bytearray:
        data = bytearray(size)
        view, done = memoryview(data), 0
        while done < size:
            self._wait_until(deadline)
            count = self.connection.recv_into(view[done:])
            if count == 0:
                raise EOFError("the other side hung up")
            done += count
        return data

    def _wait_until(self, deadline: float | None) -> None:
        """The next operation on the socket raises TimeoutError past the deadline."""
        if deadline is None:
            return self.connection.settimeout(None)
        return self.connection.settimeout(max(deadline - time.monotonic(), 1e-3))


def _arrays(listed: list[tuple[str, str, tuple[int, ...]]], body: bytearray) -> dict[str, Any]:
    arrays, start = {}, 0
    for name, dtype, shape in listed:
        if dtype not in DTYPES or min(shape, default=0) < 0:
            raise WireError(f"{name} is an array of {dtype} {shape}")
        size = int(np.prod(shape, dtype=np.int64)) * np.dtype(dtype).itemsize
        if start + size > len(body):
            raise WireError(f"{name} is longer than its frame")
        arrays[name] = np.frombuffer(body, np.uint8, size, start).view(dtype).reshape(shape)
        start += size
    if start != len(body):
        raise WireError(f"{len(body) - start} bytes of a frame belong to no array")
    return arrays


def pack(rows: list[list[int]], dtype: str = "int64") -> tuple[np.ndarray, np.ndarray]:
    """Rows of unequal length as their values one after another, and their lengths."""
    flat = [value for row in rows for value in row]
    return np.array(flat, dtype=dtype), np.array([len(row) for row in rows], dtype=np.int64)


def unpack(values: np.ndarray, lengths: np.ndarray) -> list[list[Any]]:
    """The rows of `pack`. Raises WireError if the lengths do not add up."""
    if lengths.sum() != len(values) or (lengths < 0).any():
        raise WireError(f"rows of {lengths.sum()} values in all, {len(values)} were sent")
    parts: list[list[Any]] = [part.tolist() for part in np.split(values, lengths.cumsum()[:-1])]
    return parts


Answerer = Callable[[Message], Message]


def serve(channel: Channel, calls: Mapping[str, Answerer]) -> None:
    """Answer calls until the other side hangs up; an exception is an answer too."""
    for request in requests(channel):
        try:
            answer = calls[request.header["call"]](request)
        except Exception as error:  # noqa: BLE001  # whatever a call raises is the caller's to know
            traceback.print_exc()
            answer = Message({"error": f"{type(error).__name__}: {error}"})
        channel.send(Message({**answer.header, "id": request.header["id"]}, answer.arrays))


def requests(channel: Channel) -> Iterator[Message]:
    """Calls as they come, until the other side hangs up."""
    while True:
        try:
            yield channel.receive()
        except (EOFError, ConnectionResetError):
            return


def frames(channel: Channel, count: int) -> Iterator[Message]:
    """The frames that follow a call. Use them up, or the next call will not be found."""
    for _ in range(count):
        yield channel.receive()
