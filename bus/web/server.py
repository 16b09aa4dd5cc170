"""Runs an ASGI application with uvicorn, in the way that all services of the bus do.

A port in use is reported before anything else starts. The service says when it accepts requests.
SIGTERM and SIGINT end it after the open requests.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from typing import Any

import uvicorn

from bus.errors import Stop
from bus.local.event_loop import new_event_loop

KEEP_ALIVE = 75
"""Seconds that an idle connection stays open: longer than clients keep one, so that none is closed
while it is used again."""


class ReportingServer(uvicorn.Server):
    """A server that reports when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        """Start to listen, and report it."""
        await super().startup(sockets)
        if self.started:
            self._listening()


def run(service: Coroutine[Any, Any, None]) -> None:
    """Run a coroutine that serves, until it ends. uvicorn ends it at SIGTERM and SIGINT."""
    with _without_handlers(), asyncio.Runner(loop_factory=new_event_loop) as runner:
        runner.run(service)


@contextmanager
def bound(host: str, port: int, advice: str) -> Iterator[socket.socket]:
    """Open a socket on which to listen.

    port:   0: a free one.
    advice: what to do if that is not possible, for the `Stop` that is raised then.
    """
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Name the protocol, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
        where = socket.socket(found[0], found[1], found[2])
    except OSError as error:
        raise _cannot_listen(host, port, error, advice) from None
    with where:
        try:
            where.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
            where.bind(found[4])
        except OSError as error:
            raise _cannot_listen(host, port, error, advice) from None
        yield where


def config(
    application: Any,
    *,
    certificate_file: str = "",
    key_file: str = "",
    key_password: str = "",
    end_seconds: int,
    advice: str,
) -> uvicorn.Config:
    """Return the configuration of a server.

    certificate_file, key_file, key_password: for TLS, in PEM. Without them, it serves plain HTTP.
    end_seconds: how long open requests may take when the service ends.
    advice:      what to do if TLS cannot start, for the `Stop` that is raised then.
    """
    found = uvicorn.Config(
        application,
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=end_seconds,
        ssl_certfile=certificate_file or None,
        ssl_keyfile=key_file or None,
        ssl_keyfile_password=key_password or None,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        found.load()
    except (OSError, ssl.SSLError) as error:
        raise Stop(
            f"TLS cannot start with certificate {certificate_file} and key {key_file} "
            f"({error.strerror or type(error).__name__}); {advice}"
        ) from None
    return found


def url(where: socket.socket, *, tls: bool) -> str:
    """Return the address of a service that listens on a socket."""
    host, port = where.getsockname()[:2]
    name = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{name}:{port}"


@contextmanager
def _without_handlers() -> Iterator[None]:
    # uvicorn raises the signal again when it ends, for earlier handlers. Ignore it here.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(*_: object) -> None:
    return None


def _cannot_listen(host: str, port: int, error: OSError, advice: str) -> Stop:
    return Stop(f"cannot listen on {host} port {port} ({error.strerror}); {advice}")
