"""A vendor's webhook endpoint, as a vendor would write it: it checks signatures and stores events.

Source: Standard Webhooks 1.0.0, "Verifying webhooks"; the specification's own library does the
check.
"""

from __future__ import annotations

import json
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field

import uvicorn
from standardwebhooks import Webhook, WebhookVerificationError
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

Keep = Callable[[str, bytes], None]
"""Called with an event's id and body after its signature was verified; at least once for each
event."""


@dataclass(slots=True)
class Vendor:
    """What the vendor has received.

    events: for each event id, the time of arrival (`time.time`).
    types:  how many events of each type arrived.
    forged: how many requests had a bad signature.
    """

    url: str = ""
    events: dict[str, float] = field(default_factory=dict)
    types: Counter[str] = field(default_factory=Counter)
    forged: int = 0

    def keep(self, name: str, body: bytes) -> None:
        """Store an event, unless it has arrived before."""
        if name not in self.events:  # delivery is at least once, so skip known ids
            self.events[name] = time.time()
            self.types[json.loads(body)["type"]] += 1

    def refuse(self) -> None:
        """Count a request with a bad signature."""
        self.forged += 1


@contextmanager
def vendor(secret: str) -> Iterator[Vendor]:
    """Run a vendor that listens on a free port of this machine, for the duration of the block."""
    receiver = Vendor()
    with listening(secret, receiver.keep, receiver.refuse) as receiver.url:
        yield receiver


@contextmanager
def listening(secret: str, keep: Keep, refuse: Callable[[], None] = lambda: None) -> Iterator[str]:
    """Run an endpoint on a free port of this machine for the duration of the block; yield its URL.

    keep:   called with each event that has a good signature.
    refuse: called for each request whose signature is bad.
    """
    signature = Webhook(secret)

    async def take(request: Request) -> Response:
        body = await request.body()
        try:
            signature.verify(body, dict(request.headers))
        except WebhookVerificationError:
            refuse()
            return Response(status_code=401)
        keep(request.headers["webhook-id"], body)
        return Response(status_code=204)

    app = Starlette(routes=[Route("/events", take, methods=["POST"])])
    config = uvicorn.Config(
        app, host="127.0.0.1", port=0, log_config=None, access_log=False, lifespan="off"
    )
    server = uvicorn.Server(config)
    thread = threading.Thread(target=server.run, name="vendor", daemon=True)
    thread.start()
    while not server.started and thread.is_alive():
        time.sleep(0.01)
    try:
        yield f"http://127.0.0.1:{server.servers[0].sockets[0].getsockname()[1]}/events"
    finally:
        server.should_exit = True
        thread.join(10)
