"""Runs the gate before the registry as an HTTP service."""

from __future__ import annotations

import socket
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager, suppress

from bus.errors import Stop
from bus.registry.subjects import must_have_some
from bus.settings import Settings
from bus.vendors.gate_address import last_port, remember
from bus.vendors.registry_gate import create
from bus.web import server

END_SECONDS = 10
"""How long open requests may take when the gate ends."""


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
    host, port:                 where to listen. Port 0 means the port of the last start with this
                                home, or a free port.
    certificate_file, key_file: for TLS, in PEM. Without them, let only a TLS proxy reach the gate.

    Raises `Stop` when a person must act first, and `RetryLater` when the registry is down at the
    start.
    """
    advice = "choose another address with --host and --port"
    with _bound(host, port, last_port(settings), advice) as where:
        must_have_some(settings)
        config = server.config(
            create(settings),
            certificate_file=certificate_file,
            key_file=key_file,
            end_seconds=END_SECONDS,
            advice="name others",
        )
        url = server.url(where, tls=bool(certificate_file))

        def listening() -> None:
            remember(settings, url)
            ready(url)

        server.run(server.ReportingServer(config, listening).serve(sockets=[where]))


@contextmanager
def _bound(host: str, port: int, last: int, advice: str) -> Iterator[socket.socket]:
    """Open a socket at this port; if it is 0, at the last port, or else at any free port."""
    with ExitStack() as stack:
        where = None
        if not port and last:
            with suppress(Stop):
                where = stack.enter_context(server.bound(host, last, advice))
        yield where or stack.enter_context(server.bound(host, port, advice))
