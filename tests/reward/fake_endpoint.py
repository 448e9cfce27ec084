"""A server on the loopback that answers as it is told: statuses, delays, broken connections."""

import json
import socket
import threading
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any


@dataclass(kw_only=True)
class Reply:
    """What the server does with one request. hang_up: it closes the connection without a word."""

    body: Any = None
    status: int = 200
    headers: dict[str, str] = field(default_factory=dict)
    delay_s: float = 0.0
    hang_up: bool = False
    raw: bytes | None = None


@dataclass(kw_only=True)
class Request:
    path: str
    headers: dict[str, str]
    body: Any
    began: float
    ended: float = 0.0


Script = Callable[[Request, int], Reply]  # the request and how many came before it


class FakeEndpoint:
    def __init__(self, script: Script) -> None:
        self.requests: list[Request] = []
        lock = threading.Lock()
        seen = self.requests

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self) -> None:
                length = int(self.headers["Content-Length"])
                body = json.loads(self.rfile.read(length))
                with lock:
                    request = Request(
                        path=self.path,
                        headers=dict(self.headers),
                        body=body,
                        began=time.monotonic(),
                    )
                    reply = script(request, len(seen))
                    seen.append(request)
                time.sleep(reply.delay_s)
                request.ended = time.monotonic()
                if reply.hang_up:
                    self.close_connection = True
                    self.connection.shutdown(socket.SHUT_RDWR)
                    return
                self._send(reply)

            def _send(self, reply: Reply) -> None:
                data = json.dumps(reply.body).encode() if reply.raw is None else reply.raw
                try:
                    self.send_response(reply.status)
                    for name, value in {"Content-Length": len(data), **reply.headers}.items():
                        self.send_header(name, str(value))
                    self.end_headers()
                    self.wfile.write(data)
                except OSError:  # who asked has gone: too late
                    self.close_connection = True

            def log_message(self, *arguments: Any) -> None:
                pass

        self._server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self._server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self._server.server_address[1]}"
        threading.Thread(target=self._server.serve_forever, args=(0.01,), daemon=True).start()

    def close(self) -> None:
        self._server.shutdown()
        self._server.server_close()


@contextmanager
def answering(script: Script) -> Iterator[FakeEndpoint]:
    server = FakeEndpoint(script)
    try:
        yield server
    finally:
        server.close()


def in_turn(*replies: Reply) -> Script:
    """The replies one after another, the last one for ever."""
    return lambda request, before: replies[min(before, len(replies) - 1)]
