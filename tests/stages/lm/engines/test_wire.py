"""Frames arrive as they were sent; bytes that are no frame are refused, not believed."""

import socket
import struct
import time

import numpy as np
import pytest

from stages.lm.engines.server.wire import (
    MAGIC,
    PREFIX,
    Channel,
    Message,
    WireError,
    pack,
    serve,
    unpack,
)


@pytest.fixture
def pair():
    left, right = socket.socketpair()
    with left, right:
        yield Channel(left), Channel(right)


@pytest.mark.parametrize(
    "arrays",
    [
        {},
        {"a": np.arange(6, dtype=np.int64).reshape(2, 3), "b": np.array([True, False])},
        {"empty": np.zeros((0, 4), dtype=np.float32), "scalar": np.array(7, dtype=np.uint64)},
        {"strided": np.arange(12, dtype=np.float32).reshape(3, 4).T},
    ],
)
def test_what_is_sent_is_received(pair, arrays) -> None:
    left, right = pair
    left.send(Message({"call": "x", "text": "ü"}, arrays))
    message = right.receive()
    assert message.header == {"call": "x", "text": "ü"}
    assert message.arrays.keys() == arrays.keys()
    for name, array in arrays.items():
        assert message.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(message.arrays[name], array)


def frame(header: bytes, body: bytes, magic: bytes = MAGIC) -> bytes:
    return PREFIX.pack(magic, len(header), len(body)) + header + body


@pytest.mark.parametrize(
    "data",
    [
        b"Traceback (most recent call last):\n",
        frame(b'{"arrays": []}', b"", magic=b"HTTP"),
        frame(b"not json", b""),
        frame(b"[]", b""),
        frame(b"{}", b""),
        frame(b'{"arrays": [["a", "int64", [1]]]}', b"\0" * 4),
        frame(b'{"arrays": [["a", "int64", [1]]]}', b"\0" * 16),
        frame(b'{"arrays": [["a", "object", [1]]]}', b"\0" * 8),
        frame(b'{"arrays": [["a", "int64", [-1]]]}', b"\0" * 8),
        PREFIX.pack(MAGIC, 2**31, 0),
        struct.pack("!4sIQ", MAGIC, 2, 2**60),
    ],
)
def test_bytes_that_are_no_frame_are_refused(pair, data: bytes) -> None:
    left, right = pair
    left.connection.sendall(data)
    with pytest.raises(WireError):
        right.receive(time.monotonic() + 5)


def test_half_a_frame_is_the_end(pair) -> None:
    left, right = pair
    left.connection.sendall(frame(b'{"arrays": []}', b"")[:-3])
    left.connection.close()
    with pytest.raises(EOFError):
        right.receive()


def test_a_deadline_counts_for_the_whole_frame(pair) -> None:
    """Mutation: the deadline of each read counted from its own start."""
    left, right = pair
    left.connection.sendall(frame(b'{"arrays": []}', b"")[:-3])
    started = time.monotonic()
    with pytest.raises(TimeoutError):
        right.receive(started + 0.2)
    assert time.monotonic() - started < 5


def test_rows_are_packed_and_unpacked() -> None:
    values, lengths = pack([[1, 2], [], [3]])
    assert (values.tolist(), lengths.tolist()) == ([1, 2, 3], [2, 0, 1])
    assert unpack(values, lengths) == [[1, 2], [], [3]]
    with pytest.raises(WireError):
        unpack(values, np.array([2, 2]))


def test_an_exception_is_an_answer_and_the_next_call_is_served(pair) -> None:
    left, right = pair
    for number, name in enumerate(["divide", "unknown", "echo"]):
        left.send(Message({"call": name, "id": number}))
    left.connection.shutdown(socket.SHUT_WR)
    serve(right, {"divide": lambda _: Message({"x": 1 / 0}), "echo": lambda m: Message({"y": 1})})
    answers = [left.receive().header for _ in range(3)]
    assert answers[0] == {"id": 0, "error": "ZeroDivisionError: division by zero"}
    assert answers[1] == {"id": 1, "error": "KeyError: 'unknown'"}
    assert answers[2] == {"id": 2, "y": 1}
