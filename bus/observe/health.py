"""Serves a consumer's readiness, liveness and metrics over HTTP.

An orchestrator and Prometheus use it. `/livez` answers 200 while the loop runs. `/readyz` answers
200 while the consumer is in its group and its product answers. `/metrics` answers in Prometheus'
text format. No endpoint needs a secret, and none contains personal data.
"""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from contextlib import contextmanager
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

    Serves nothing if the port is 0. Raises `Stop` if the port is taken.
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
    thread = threading.Thread(target=server.run, name="health", daemon=True)
    thread.start()
    try:
        while not server.started:
            thread.join(0.02)
            if not thread.is_alive():
                raise Stop(
                    f"port {port} on {host} is in use; set [consumer] http_port to a free one"
                )
        yield
    finally:
        server.should_exit = True
        thread.join(10)
