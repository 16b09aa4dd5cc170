"""A TCP proxy on 127.0.0.1 that can misbehave, and can be changed while it runs.

    with Proxy(8080) as proxy:      # connections to proxy.port are passed on to port 8080
        proxy.behave(latency=0.05, rate=20_000)   # slow
        proxy.behave("hang")            # both directions are silent, connections stay open
        proxy.behave("deaf")            # requests never arrive; answers on the way do
        proxy.behave("mute")            # requests arrive and take effect; answers never come
        proxy.behave("cut")             # connections are closed and new ones refused
        proxy.behave("pass")
        proxy.drop_answer()         # the next answer is dropped and its connection closed

The proxy drops the bytes that "hang", "deaf" or "mute" hold back. TCP never leaves a gap in a
stream, so such a connection is closed when traffic passes again.

A proxy for Kafka can catch single requests by their API key. `late` holds back the next one, breaks
its connection, and lets it arrive later. `unanswered` lets it arrive and breaks the connection
instead of answering. `seen` counts API keys and versions.
"""

from __future__ import annotations

import asyncio
import socket
import threading
from collections import Counter
from collections.abc import Callable, Coroutine
from dataclasses import dataclass, field
from typing import Any, Literal

Behavior = Literal["pass", "cut", "hang", "deaf", "mute"]
SILENT = {"hang": ("request", "answer"), "deaf": ("request",), "mute": ("answer",)}
CHUNK = 65_536


@dataclass(eq=False, slots=True)
class _Connection:
    client: asyncio.StreamWriter
    server: asyncio.StreamWriter
    has_gap: bool = False
    closes: bool = False

    def close(self) -> None:
        for writer in (self.client, self.server):
            writer.transport.abort()


@dataclass(slots=True)
class CaughtRequest:
    """A Kafka request to catch; `arrived` is set when it has reached the proxy."""

    api: int
    which: Callable[[bytes], bool]
    late: bool
    frame: bytes = b""
    arrived: threading.Event = field(default_factory=threading.Event)


class Proxy:
    """A TCP proxy that can misbehave. Any thread may call its methods."""

    def __init__(self, to: int, port: int = 0, *, kafka: bool = False) -> None:
        self.to = to
        self.port = port
        self._kafka = kafka  # requests are passed on whole, so that single ones can be caught
        self.passed = {"request": 0, "answer": 0}
        self._behavior: Behavior = "pass"
        self._latency = self._rate = 0.0
        self._open: set[_Connection] = set()
        self._drops = 0
        self.seen: Counter[tuple[int, int]] = Counter()
        self._to_catch: list[CaughtRequest] = []
        self._server: asyncio.Server | None = None
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, name="proxy")

    def __enter__(self) -> Proxy:
        self._thread.start()
        self._do(self._listen())
        return self

    def __exit__(self, *_: object) -> None:
        self._do(self._end())
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()

    def behave(
        self, behavior: Behavior = "pass", *, latency: float = 0.0, rate: float = 0.0
    ) -> None:
        """Change how the proxy treats traffic from now on.

        latency: seconds for each piece in one direction.
        rate:    bytes a second; 0 means no limit.
        """
        self._do(self._change_behavior(behavior, latency, rate))

    def drop_answer(self, times: int = 1) -> None:
        """Drop the next answers and close their connections."""
        self._drops += times

    def late(self, api: int, which: Callable[[bytes], bool] = lambda _: True) -> CaughtRequest:
        """Hold back the next Kafka request with this API key, and break its connection."""
        self._to_catch.append(caught := CaughtRequest(api, which, late=True))
        return caught

    def unanswered(
        self, api: int, which: Callable[[bytes], bool] = lambda _: True
    ) -> CaughtRequest:
        """Break the connection of the next such request after it has taken effect."""
        self._to_catch.append(caught := CaughtRequest(api, which, late=False))
        return caught

    def forget(self) -> None:
        """Catch no more requests."""
        self._to_catch.clear()

    def arrive(self, caught: CaughtRequest) -> int:
        """Let a late request arrive now; return the error code of Kafka's answer (EndTxn v1)."""
        with socket.create_connection(("127.0.0.1", self.to), timeout=30) as server:
            server.sendall(caught.frame)
            answer = _exactly(server, int.from_bytes(_exactly(server, 4), "big"))
        return int.from_bytes(answer[8:10], "big", signed=True)

    def _do(self, work: Coroutine[Any, Any, None]) -> None:
        asyncio.run_coroutine_threadsafe(work, self._loop).result(30)

    async def _listen(self) -> None:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self.port)
        self.port = self._server.sockets[0].getsockname()[1]

    async def _change_behavior(self, behavior: Behavior, latency: float, rate: float) -> None:
        self._behavior, self._latency, self._rate = behavior, latency, rate
        if behavior == "cut" and self._server is not None:
            # A server that is closed would drop accepted connections that have no transport yet,
            # and leave their sockets open (asyncio of Python 3.11, `Server._attach`).
            for listening in self._server.sockets:
                self._loop.remove_reader(listening)
            await asyncio.sleep(0)
            self._server.close()
            self._server = None
        elif behavior != "cut" and self._server is None:
            await self._listen()
        for one in [*self._open]:
            if behavior == "cut" or (behavior == "pass" and one.has_gap):
                one.close()

    async def _end(self) -> None:
        for _ in range(3):  # a connection may have reached the server only now
            await self._change_behavior("cut", 0, 0)
            others = asyncio.all_tasks() - {asyncio.current_task()}
            await asyncio.gather(*others, return_exceptions=True)  # their connections are closed
            await asyncio.sleep(0.02)  # and now their sockets

    async def _accept(self, reader: asyncio.StreamReader, client: asyncio.StreamWriter) -> None:
        try:
            answers, server = await asyncio.open_connection("127.0.0.1", self.to)
        except OSError:
            client.transport.abort()
            return
        connection = _Connection(client, server)
        self._open.add(connection)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pump(connection, reader, server, "request"))
                group.create_task(self._pump(connection, answers, client, "answer"))
        except* (OSError, asyncio.IncompleteReadError, _ConnectionClosed):
            pass
        finally:
            connection.close()
            self._open.discard(connection)

    async def _pump(
        self,
        connection: _Connection,
        reader: asyncio.StreamReader,
        writer: asyncio.StreamWriter,
        direction: Literal["request", "answer"],
    ) -> None:
        while True:
            if direction == "request" and self._kafka:
                data = await self._frame(reader, connection)
            else:
                data = await reader.read(CHUNK)
            if not data:  # HTTP and Kafka clients do not use half-closed connections
                raise _ConnectionClosed
            if self._latency:
                await asyncio.sleep(self._latency)
            if direction in SILENT.get(self._behavior, ()):
                connection.has_gap = True
                continue
            if direction == "answer" and (self._drops or connection.closes):
                self._drops -= not connection.closes
                raise _ConnectionClosed
            if self._rate:
                await asyncio.sleep(len(data) / self._rate)
            self.passed[direction] += len(data)
            writer.write(data)
            await writer.drain()

    async def _frame(self, reader: asyncio.StreamReader, connection: _Connection) -> bytes:
        """Read one whole Kafka request: size, API key, version, correlation id, and the rest."""
        size = await reader.readexactly(4)
        frame = size + await reader.readexactly(int.from_bytes(size, "big"))
        api, version = (int.from_bytes(frame[at : at + 2], "big") for at in (4, 6))
        self.seen[api, version] += 1
        for caught in [*self._to_catch]:
            if caught.api == api and caught.which(frame):
                self._to_catch.remove(caught)
                caught.frame = frame
                caught.arrived.set()
                if caught.late:
                    raise _ConnectionClosed
                connection.closes = True
                break
        return frame


class _ConnectionClosed(Exception):  # noqa: N818
    """The connection is closed."""


def _exactly(connection: socket.socket, size: int) -> bytes:
    data = b""
    while len(data) < size:
        more = connection.recv(size - len(data))
        assert more, "the broker closed the connection"
        data += more
    return data
