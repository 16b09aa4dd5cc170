"""A real receiver of webhooks for tests, on 127.0.0.1 and a free port, in separate threads.

It verifies each request with the `standardwebhooks` library, keeps what it received and when, and
answers as the test says:

    with Receiver(SECRET) as receiver:
        receiver.next(503, times=2)          # then 204 again
        receiver.next(429, headers={"retry-after": "7"})
        receiver.next("hang")                # reads the request, never answers
        receiver.next("drop")                # reads the request, closes the connection
        receiver.next("trickle")             # begins an answer and never ends it
        receiver.next("half")                # answers 200 with a body that never comes
        ...
        receiver.accepted                    # verified and answered with 2xx, in order of arrival

`answer` may be set to a function of the event for anything else. `connections` is the number of
connections. Any thread may call the methods.
"""

from __future__ import annotations

import json
import socket
import ssl
import threading
import time
from collections import deque
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from standardwebhooks import Webhook, WebhookVerificationError

Reply = int | Literal["hang", "drop", "trickle", "half"]


@dataclass(frozen=True, slots=True)
class Received:
    """One request: its headers in lower case, its JSON, and its time (`time.time`).

    verified: whether the library accepted the signature for one of the receiver's secrets.
    reply:    what was answered.
    """

    headers: Mapping[str, str]
    body: bytes
    path: str
    at: float
    verified: bool
    reply: Reply

    @property
    def id(self) -> str:
        return self.headers["webhook-id"]

    @property
    def event(self) -> dict[str, Any]:
        """The payload: type, timestamp, data."""
        found: dict[str, Any] = json.loads(self.body)
        return found

    @property
    def data(self) -> dict[str, Any]:
        found: dict[str, Any] = self.event["data"]
        return found


@dataclass
class Receiver:
    """See the docstring of the module.

    `answer` decides about each event if `next` has set no answer; port 0 means a free port.
    `certificate` is a PEM file with the key and the certificate for TLS; without it, there is none.
    """

    secret: str
    answer: Callable[[Received], Reply] = lambda _: 204
    received: list[Received] = field(default_factory=list)
    port: int = 0
    certificate: Path | None = None

    def __post_init__(self) -> None:
        self._due: deque[tuple[Reply, Mapping[str, str]]] = deque()
        self._lock = threading.Lock()
        self._sockets: set[socket.socket] = set()
        self._closed = threading.Event()
        self.connections = 0

    @property
    def url(self) -> str:
        scheme = "https" if self.certificate else "http"
        return f"{scheme}://127.0.0.1:{self._server.server_address[1]}/events"

    @property
    def accepted(self) -> list[Received]:
        with self._lock:
            return [
                r
                for r in self.received
                if r.verified and isinstance(r.reply, int) and 200 <= r.reply < 300
            ]

    def next(
        self, reply: Reply, *, times: int = 1, headers: Mapping[str, str] | None = None
    ) -> None:
        """Set the answer to each of the next requests."""
        with self._lock:
            self._due.extend([(reply, headers or {})] * times)

    def wait(self, number: int, seconds: float = 10.0) -> list[Received]:
        """Return the accepted requests, once there are this many; fail after this many seconds."""
        until = time.monotonic() + seconds
        while len(found := self.accepted) < number:
            assert time.monotonic() < until, f"{len(found)} of {number} events after {seconds} s"
            time.sleep(0.01)
        return found

    def hang_up(self) -> None:
        """Close all connections, as a server closes idle ones."""
        with self._lock:
            for each in self._sockets:
                each.shutdown(socket.SHUT_RDWR)

    def __enter__(self) -> Receiver:
        receiver = self

        class Handler(BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"
            disable_nagle_algorithm = True

            def setup(self) -> None:
                super().setup()
                with receiver._lock:
                    receiver._sockets.add(self.connection)
                    receiver.connections += 1

            def finish(self) -> None:
                with receiver._lock:
                    receiver._sockets.discard(self.connection)
                super().finish()

            def do_POST(self) -> None:
                body = self.rfile.read(int(self.headers["content-length"]))
                receiver._take(self, body)

            def log_message(self, *_: object) -> None:
                pass

        class Server(ThreadingHTTPServer):
            daemon_threads = False  # so that closing waits for them
            request_queue_size = 128

            def handle_error(self, *_: object) -> None:
                pass  # the sender closed the connection first

        self._server = Server(("127.0.0.1", self.port), Handler)
        if self.certificate:
            context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
            context.load_cert_chain(self.certificate)
            self._server.socket = context.wrap_socket(
                self._server.socket, server_side=True, do_handshake_on_connect=False
            )
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.02,))
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._closed.set()
        self._server.shutdown()
        self._thread.join()
        with self._lock:
            for each in self._sockets:
                try:
                    each.shutdown(socket.SHUT_RDWR)
                except OSError:
                    continue
        self._server.server_close()

    def _take(self, handler: BaseHTTPRequestHandler, body: bytes) -> None:
        at = time.time()
        headers = {name.lower(): value for name, value in handler.headers.items()}
        try:
            Webhook(self.secret).verify(body, headers)
            verified = True
        except (WebhookVerificationError, ValueError):
            verified = False
        event = Received(headers, body, handler.path, at, verified, 401)
        with self._lock:
            due = self._due.popleft() if self._due else None
        reply, extra = due or (self.answer(event) if verified else 401, {})
        with self._lock:
            self.received.append(Received(headers, body, handler.path, at, verified, reply))
        if reply == "hang":
            self._closed.wait(30)
        if reply == "half":
            handler.wfile.write(b"HTTP/1.1 200 .\r\ncontent-length: 10\r\n\r\n")
            self._closed.wait(30)
        if reply == "trickle":
            handler.wfile.write(b"HTTP/1.1 200 ")
            while not self._closed.wait(0.05):
                handler.wfile.write(b".")
        if isinstance(reply, str):
            handler.close_connection = True
            return
        lines = [f"HTTP/1.1 {reply} .", *(f"{k}: {v}" for k, v in extra.items())]
        if reply != 204 and "content-length" not in extra:
            lines.append("content-length: 0")
        handler.wfile.write(("\r\n".join(lines) + "\r\n\r\n").encode())
