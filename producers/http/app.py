"""The routes of the service, and the order in which it checks a request.

Each line names a condition and the status of the answer when the condition fails:

    401 the client is known
    403 the client may write this kind
    415 the body is declared as JSON
    429 not too many requests are in progress, and the client does not send too often
    413 the body is small enough (408 when it does not arrive in time)
    400 the Idempotency-Key is well formed
    422 the Idempotency-Key was not used for another request
    409 no other request with this Idempotency-Key is in progress
    503 Kafka accepts events
    400 the body is JSON
    413 the body does not have too many records, and none is too large
    422 the records are valid
    429 the queue has room
    503 Kafka commits in time

A request that passes all checks is answered with 202. Every refusal is a problem document (see
`producers.http.problems`). The content of a request is never logged.
"""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Awaitable, Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from typing import Any, Protocol
from urllib.parse import quote

import structlog
from prometheus_client import CONTENT_TYPE_LATEST, generate_latest
from starlette.applications import Starlette
from starlette.exceptions import HTTPException
from starlette.requests import Request
from starlette.responses import Response
from starlette.routing import Route

from bus.kafka import topics
from bus.kafka.cloudevents import envelope, now
from bus.registry.codec import Encoder
from bus.settings import Settings
from producers.http import idempotency
from producers.http.admission import is_json, may_write, read
from producers.http.clients import Client, Clients
from producers.http.idempotency import Keys
from producers.http.intake import Taken, take
from producers.http.metrics import Metrics
from producers.http.openapi import document
from producers.http.problems import Problem, busy, plain, response, unavailable
from producers.http.rates import Rates
from producers.http.settings import HttpSettings
from producers.http.tracing import traced
from producers.http.work import Event, Full, Work

log = structlog.get_logger("bus.http")

LARGE = 64 * 1024
"""Bodies of at least this many bytes are processed in a thread, so that small requests do not wait
for them.
"""


class Commit(Protocol):
    """The part of `producers.http.commit.GroupCommit` that the service uses."""

    @property
    def taking(self) -> bool:
        """Whether Kafka accepts events."""
        ...

    @property
    def queued(self) -> int:
        """How many events are in the queue."""
        ...

    def reachable(self) -> bool:
        """Return whether Kafka answers and accepts events."""
        ...

    def submit(self, events: Sequence[Event]) -> Work:
        """Put a request's events into the queue."""
        ...


@dataclass(slots=True)
class Service:
    """What the handlers of requests share.

    encoders:   one for each kind that can be written, which are the kinds with a registered schema.
    partitions: how many partitions each topic of the standard has.
    in_hand:    how many requests are in progress.
    """

    settings: Settings
    http: HttpSettings
    clients: Clients
    commit: Commit
    keys: Keys
    encoders: Mapping[str, Encoder]
    partitions: int
    metrics: Metrics = field(default_factory=Metrics)
    in_hand: int = 0


def create(service: Service) -> Starlette:
    """Return the ASGI application."""
    rates = Rates(service.http.rate, service.http.burst)
    described = json.dumps(document(tuple(service.encoders), service.http)).encode()

    async def openapi(_: Request) -> Response:
        return Response(described, media_type="application/json")

    async def alive(_: Request) -> Response:
        return Response("alive\n", media_type="text/plain")

    async def ready(_: Request) -> Response:
        if await asyncio.to_thread(service.commit.reachable):
            return Response("ready\n", media_type="text/plain")
        return response(unavailable("Kafka does not answer or accepts no events", 5))

    async def metrics(_: Request) -> Response:
        service.metrics.queued.set(service.commit.queued)
        service.metrics.keys.set(len(service.keys))
        return Response(
            generate_latest(service.metrics.registry), headers={"Content-Type": CONTENT_TYPE_LATEST}
        )

    async def refused(_: Request, error: Exception) -> Response:
        assert isinstance(error, HTTPException)
        detail = {
            404: "this path does not exist; POST records to /v1/KIND, where KIND is one of: "
            f"{', '.join(service.encoders)}"
        }
        return response(plain(error.status_code, detail.get(error.status_code, ""), error.headers))

    return Starlette(
        routes=[
            *(
                Route(f"/v1/{kind}", _answered(service, rates, kind), methods=["POST"])
                for kind in service.encoders
            ),
            Route("/v1/openapi.json", openapi),
            Route("/openapi.json", openapi),
            Route("/livez", alive),
            Route("/healthz", alive),  # its name in 0.1.0, for one release
            Route("/readyz", ready),
            Route("/metrics", metrics),
        ],
        exception_handlers={HTTPException: refused},
    )


def _answered(
    service: Service, rates: Rates, kind: str
) -> Callable[[Request], Awaitable[Response]]:
    """Return the handler of a kind, which answers and counts every request."""

    async def post(request: Request) -> Response:
        begun = time.perf_counter()
        service.in_hand += 1
        try:
            answer = await _post(service, rates, kind, request)
        except Problem as problem:
            answer = response(problem)
        except Exception as error:
            # The message and the traceback could contain personal data from the request.
            log.error("request failed", kind=kind, error=type(error).__name__, at=_place(error))
            answer = response(
                plain(
                    500,
                    "the service failed, so it is unknown whether the records were published; "
                    "its log says where it failed",
                )
            )
        finally:
            service.in_hand -= 1
        service.metrics.requests.labels(kind, str(answer.status_code)).inc()
        service.metrics.request_seconds.observe(time.perf_counter() - begun)
        return answer

    return post


async def _post(service: Service, rates: Rates, kind: str, request: Request) -> Response:
    http = service.http
    client = await service.clients.authenticate(request.headers)
    may_write(client, kind)
    is_json(request)
    if service.in_hand > http.requests_in_hand:
        raise busy("too many requests are in progress; send this one again later", 1)
    if wait := rates.take(client.name):
        raise busy(
            f"this client sends more than {http.rate:g} requests per second; send this one again "
            "later",
            wait,
        )
    body = await read(request, http.body_bytes, http.body_seconds)
    word = idempotency.parse(request.headers.getlist("idempotency-key"))
    fingerprint = idempotency.fingerprint(kind, body)
    key = None if word is None else idempotency.digest(client.name, word)
    identity = None if key is None else key + fingerprint
    if key is not None and service.keys.done(key, fingerprint):
        return _accepted(await _take(service, kind, body, client, identity))
    if not service.commit.taking:
        raise unavailable("Kafka accepts no events now; send the request again later", 5)
    if key is not None:
        service.keys.begin(key, fingerprint)
    with traced(f"POST /v1/{kind}", request.headers.get("traceparent", "")) as traceparent:
        try:
            taken = await _take(service, kind, body, client, identity)
            events = _events(service, kind, taken, client, traceparent)
            work = _submit(service, kind, events, key, fingerprint)
        except BaseException:
            if key is not None:
                service.keys.drop(key)
            raise
        await _committed(work, http.commit_seconds)
    return _accepted(taken)


async def _committed(work: Work, seconds: float) -> None:
    """Return when Kafka has committed the events of a request.

    Raises a 503 `Problem` when Kafka did not commit them, or not within `seconds`.
    """
    await asyncio.wait({work.outcome}, timeout=seconds)
    if not work.outcome.done():
        work.abandoned = True
        raise unavailable(
            "Kafka did not confirm the records in time, and may still do so; send the request "
            "again, with the same Idempotency-Key if it had one",
            5,
        )
    if work.outcome.result() is not None:
        raise unavailable("Kafka did not accept the records; send the request again later", 5)


async def _take(
    service: Service, kind: str, body: bytes, client: Client, identity: bytes | None
) -> list[Taken]:
    work = partial(
        take,
        kind,
        body,
        client=client.name,
        encoder=service.encoders[kind],
        most=service.http.body_records,
        request=identity,
    )
    return work() if len(body) < LARGE else await asyncio.to_thread(work)


def _events(
    service: Service, kind: str, taken: list[Taken], client: Client, traceparent: str
) -> list[Event]:
    source = "/http/" + quote(client.name, safe="")
    shared = envelope(kind, "recorded", source=source, time=now(), traceparent=traceparent)
    topic = topics.topic(service.settings, kind)
    return [
        Event(
            topic,
            topics.partition_for(record.owner, service.partitions),
            record.sourced_id.encode(),
            record.value,
            [*shared, ("ce_id", record.event_id.encode())],
        )
        for record in taken
    ]


def _submit(
    service: Service, kind: str, events: list[Event], key: bytes | None, fingerprint: bytes
) -> Work:
    """Put the events and the idempotency key into the queue, to be committed together.

    Kafka then has both or neither.
    """
    records = len(events)
    if key is not None:
        value = idempotency.value(fingerprint, records, time.time())
        events = [*events, Event(topics.idempotency(service.settings), 0, key, value, [])]

    def settled(outcome: asyncio.Future[Any]) -> None:
        # Runs also when the client no longer waits.
        committed = not outcome.cancelled() and outcome.result() is None
        if committed:
            service.metrics.records.labels(kind).inc(records)
        if key is not None and committed:
            service.keys.finish(key, fingerprint)
        elif key is not None:
            service.keys.drop(key)

    try:
        work = service.commit.submit(events)
    except Full:
        raise busy("too many records wait for Kafka; send the request again later", 1) from None
    work.outcome.add_done_callback(settled)
    return work


def _accepted(taken: list[Taken]) -> Response:
    events = [{"id": record.event_id, "sourcedId": record.sourced_id} for record in taken]
    return Response(
        json.dumps({"events": events}, ensure_ascii=False).encode(),
        202,
        headers={"Cache-Control": "no-store"},
        media_type="application/json",
    )


def _place(error: BaseException) -> str:
    """Return the file and line where an error was raised."""
    at = error.__traceback__
    while at is not None and at.tb_next is not None:
        at = at.tb_next
    return f"{at.tb_frame.f_code.co_filename.rpartition('/')[2]}:{at.tb_lineno}" if at else ""
