"""Runs the gate before the registry as an HTTP service."""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable

import uvicorn

from bus.errors import Stop
from bus.local.event_loop import new_event_loop
from bus.registry.subjects import must_have_some
from bus.settings import Settings
from bus.vendors.gate_address import last_port, remember
from bus.vendors.registry_gate import create


def serve(
    settings: Settings,
    ready: Callable[[str], None],
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    certificate_file: str = "",
    key_file: str = "",
) -> None:
    """Serve until SIGTERM or SIGINT arrives.

    ready:                      called with the URL when the gate accepts requests.
    host, port:                 where to listen; port 0: that of the last start with this home, or
                                a free one.
    certificate_file, key_file: for TLS, in PEM. Without them, let only a TLS proxy reach the gate.

    Raises `Stop` when a person must act first, and `RetryLater` when the registry is down at the
    start.
    """
    where = _first_socket(host, port or last_port(settings), port)
    # uvicorn raises the signal again when it ends, for earlier handlers. Ignore it here.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        must_have_some(settings)
        config = _config(settings, certificate_file, key_file)
        address, bound = where.getsockname()[:2]
        name = f"[{address}]" if ":" in address else address
        url = f"{'https' if certificate_file else 'http'}://{name}:{bound}"

        def listening() -> None:
            remember(settings, url)
            ready(url)

        server = _GateServer(config, listening)
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(server.serve(sockets=[where]))
    finally:
        where.close()
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(*_: object) -> None:
    return None


class _GateServer(uvicorn.Server):
    """A uvicorn server that reports when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()


def _config(settings: Settings, certificate_file: str, key_file: str) -> uvicorn.Config:
    config = uvicorn.Config(
        create(settings),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        timeout_keep_alive=75,  # longer than clients keep idle connections
        timeout_graceful_shutdown=10,
        ssl_certfile=certificate_file or None,
        ssl_keyfile=key_file or None,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise Stop(
            f"TLS cannot start with certificate {certificate_file} and key {key_file} "
            f"({error.strerror or type(error).__name__}); name others"
        ) from None
    return config


def _first_socket(host: str, port: int, fallback: int) -> socket.socket:
    try:
        return _socket(host, port)
    except Stop:
        if fallback == port:
            raise
        return _socket(host, fallback)


def _socket(host: str, port: int) -> socket.socket:
    """Return a bound socket, so that a port in use is reported at once."""
    where = None
    try:
        found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)[0]
        # Name the protocol, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
        where = socket.socket(found[0], found[1], found[2])
        where.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where.bind(found[4])
    except OSError as error:
        if where is not None:
            where.close()
        raise Stop(
            f"cannot listen on {host} port {port} ({error.strerror}); choose another address with "
            "--host and --port"
        ) from None
    return where
