"""Runs the service, and prepares everything before the first request.

At the start it looks up the registered schemas, creates missing topics, fences off an earlier
process of the same name and loads the idempotency keys. Then it listens. On SIGTERM or SIGINT it
stops listening, answers the open requests, publishes the events in the queue, and ends.
"""

from __future__ import annotations

import asyncio
import socket
from collections.abc import Callable, Iterable

import uvicorn
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.errors import RetryLater, Stop
from bus.ingest import ownership
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.registry import subjects
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.web import server
from producers.http import idempotency
from producers.http.app import Service, create
from producers.http.clients import Clients, Issuer, key_set
from producers.http.commit import GroupCommit
from producers.http.idempotency import Keys
from producers.http.metrics import Metrics
from producers.http.settings import HttpSettings


def serve(settings: Settings, http: HttpSettings, ready: Callable[[str], None]) -> None:
    """Serve until a signal arrives.

    ready: called with the URL of the service when it accepts requests.

    Raises `Stop` when a person must act first, and `RetryLater` when Kafka or the registry is down
    at the start.
    """
    advice = (
        "choose another address with --host and --port, or with host and port in [producers.http]"
    )
    # Bound before anything else starts, so that a port in use is reported at once.
    with server.bound(http.host, http.port, advice) as where:
        server.run(_serve(settings, http, where, ready))


async def _serve(
    settings: Settings, http: HttpSettings, where: socket.socket, ready: Callable[[str], None]
) -> None:
    stops: list[Stop] = []
    schema_ids = subjects.lookup(settings)
    subjects.require(settings, schema_ids, sorted(_writable(http, schema_ids)))
    partitions = _topics(settings, list(schema_ids))
    oauth = http.oauth
    issuer = None if oauth is None else Issuer(oauth, lambda: key_set(oauth.jwks))
    metrics = Metrics()

    def stopped(reason: Stop) -> None:
        stops.append(reason)
        running.should_exit = True

    commit = GroupCommit(
        settings,
        f"{settings.topic_prefix}.http.{http.instance}",
        queue_records=http.queue_records,
        interval=http.interval,
        loop=asyncio.get_running_loop(),
        stopped=stopped,
        committed=metrics.committed,
    )
    commit.open()
    ownership.announce(settings, "/http", _writable(http, schema_ids))
    keys = Keys(http.idempotency_hours * 3600, http.idempotency_keys)
    idempotency.load(settings, keys)
    url = server.url(where, tls=bool(http.certificate_file))
    service = Service(
        settings,
        http,
        Clients(http, issuer),
        commit,
        keys,
        {kind: Encoder(kind, id_) for kind, id_ in schema_ids.items()},
        partitions,
        metrics,
    )
    running = server.ReportingServer(_config(service), lambda: ready(url))
    try:
        await running.serve(sockets=[where])
    finally:
        await asyncio.to_thread(commit.close)
    if stops:
        raise stops[0]


def _writable(http: HttpSettings, kinds: Iterable[str]) -> set[str]:
    """Return the kinds that at least one client may write."""
    if http.oauth is not None:
        return set(kinds)
    return {kind for client in http.clients.values() for kind in client.scopes}


def _config(service: Service) -> uvicorn.Config:
    http = service.http
    return server.config(
        create(service),
        certificate_file=http.certificate_file,
        key_file=http.key_file,
        key_password=http.key_password.get_secret_value(),
        end_seconds=int(http.commit_seconds) + 5,
        advice="correct certificate_file and key_file in [producers.http]",
    )


def _topics(settings: Settings, kinds: list[str]) -> int:
    """Create missing topics. Return how many partitions those of the standard have."""
    names = [topics.topic(settings, kind) for kind in kinds]
    topics.ensure(settings, [*names, topics.idempotency(settings)])
    try:
        there = AdminClient(client_settings(settings)).list_topics(timeout=10).topics
    except KafkaException as error:
        raise RetryLater(
            f"Kafka does not answer ({error.args[0].name()}); restart the service when it is up"
        ) from None
    return topics.count(settings, {name: len(meta.partitions) for name, meta in there.items()})
