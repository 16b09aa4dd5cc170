"""Runs the gate before the registry as an HTTP service."""

from __future__ import annotations

from collections.abc import Callable

from bus.registry.subjects import must_have_some
from bus.settings import Settings
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
    host, port:                 where to listen; port 0: a free one.
    certificate_file, key_file: for TLS, in PEM. Without them, let only a TLS proxy reach the gate.

    Raises `Stop` when a person must act first, and `RetryLater` when the registry is down at the
    start.
    """
    with server.bound(host, port, "choose another address with --host and --port") as where:
        must_have_some(settings)
        config = server.config(
            create(settings),
            certificate_file=certificate_file,
            key_file=key_file,
            end_seconds=END_SECONDS,
            advice="name others",
        )
        url = server.url(where, tls=bool(certificate_file))
        server.run(server.ReportingServer(config, lambda: ready(url)).serve(sockets=[where]))
