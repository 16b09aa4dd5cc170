"""Serves a consumer's readiness, liveness and metrics over HTTP.

An orchestrator and Prometheus use it. `/livez` answers 200 while the loop runs. `/readyz` answers
200 while the consumer is in its group and its product answers. `/metrics` answers in Prometheus'
text format. No endpoint needs a secret, and none contains personal data.
"""

from __future__ import annotations

import errno
import os
import socket
import threading
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from typing import TYPE_CHECKING

from prometheus_client import CollectorRegistry

from bus.errors import Stop

if TYPE_CHECKING:
    from starlette.requests import Request
    from starlette.responses import PlainTextResponse

Check = Callable[[], str]
"""Returns what is wrong, or "" if nothing is."""


@contextmanager
def served(
    host: str, port: int, registry: CollectorRegistry, *, live: Check, ready: Check
) -> Iterator[None]:
    """Serve the endpoints on a separate thread while the block runs.

    Serves nothing if the port is 0. Raises `Stop` if the port is taken, if the host or the port
    cannot be used for another reason, or if the server ends before it serves.
    """
    if not port:
        yield
        return
    # Imported only here: most consumers have no port, and these imports take a twentieth of their
    # start.
    import uvicorn
    from prometheus_client import make_asgi_app
    from starlette.applications import Starlette
    from starlette.responses import PlainTextResponse
    from starlette.routing import Mount, Route

    def answer(check: Check) -> Callable[[Request], PlainTextResponse]:
        def endpoint(_: Request) -> PlainTextResponse:
            wrong = check()
            return PlainTextResponse(wrong or "ok", 503 if wrong else 200)

        return endpoint

    app = Starlette(
        routes=[
            Route("/livez", answer(live)),
            Route("/readyz", answer(ready)),
            Mount("/metrics", make_asgi_app(registry)),
        ]
    )
    config = uvicorn.Config(
        app, host=host, port=port, log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    # Bound here: the server itself would only log the error, and end.
    sockets = _bound(host, port)
    ended: list[BaseException] = []

    def run() -> None:
        try:
            server.run(sockets)
        except BaseException as error:  # SystemExit too: the server ends with it
            ended.append(error)

    thread = threading.Thread(target=run, name="health", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            if not thread.is_alive():
                why = f" ({type(ended[0]).__name__})" if ended else ""
                raise Stop(
                    f"the server of /livez, /readyz and /metrics ended before it served{why}; the "
                    "port is free. Set [consumer] http_port = 0 to run without it"
                )
        yield
    finally:
        server.should_exit = True
        thread.join(10)
        for one in sockets:
            one.close()


def _bound(host: str, port: int) -> list[socket.socket]:
    """Return a socket for each address of the host, bound to the port.

    Raises `Stop` if the system refuses one.
    """
    with ExitStack() as bound:
        sockets = []
        try:
            found = socket.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            for family, kind, protocol, _, address in dict.fromkeys(found):
                one = bound.enter_context(socket.socket(family, kind, protocol))
                if os.name == "posix":  # elsewhere it allows two servers on one port
                    one.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
                if family == socket.AF_INET6:
                    one.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
                one.bind(address)
                sockets.append(one)
        except OSError as error:
            if error.errno == errno.EADDRINUSE:
                raise Stop(
                    f"port {port} on {host} is in use; set [consumer] http_port to a free one"
                ) from None
            raise Stop(
                f"port {port} on {host} cannot be opened ({error.strerror or error}); correct "
                "[consumer] http_host and http_port"
            ) from None
        bound.pop_all()
        return sockets
