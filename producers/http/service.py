"""Runs the service, and prepares everything before the first request.

At the start it looks up the registered schemas, creates missing topics, fences off an earlier
process of the same name and loads the idempotency keys. Then it listens. On SIGTERM or SIGINT it
stops listening, answers the open requests, publishes the events in the queue, and ends.
"""

from __future__ import annotations

import asyncio
import logging
import signal
import socket
import ssl
from collections.abc import Callable, Iterable

import uvicorn
from confluent_kafka import KafkaException
from confluent_kafka.admin import AdminClient

from bus.errors import RetryLater, Stop
from bus.ingest import ownership
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.local.event_loop import new_event_loop
from bus.registry import subjects
from bus.registry.codec import Encoder
from bus.settings import Settings
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
    # uvicorn raises the signal again when it ends, for earlier handlers. Ignore it here.
    before = {number: signal.signal(number, _ignore) for number in (signal.SIGTERM, signal.SIGINT)}
    try:
        with asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_serve(settings, http, ready))
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)


def _ignore(*_: object) -> None:
    return None


class _Server(uvicorn.Server):
    """A uvicorn server that reports when it listens."""

    def __init__(self, config: uvicorn.Config, listening: Callable[[], None]) -> None:
        super().__init__(config)
        self._listening = listening

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets)
        if self.started:
            self._listening()


async def _serve(settings: Settings, http: HttpSettings, ready: Callable[[str], None]) -> None:
    where = _socket(http)
    stops: list[Stop] = []
    try:
        schema_ids = subjects.lookup(settings)
        subjects.require(settings, schema_ids, sorted(_writable(http, schema_ids)))
        partitions = _topics(settings, list(schema_ids))
        oauth = http.oauth
        issuer = None if oauth is None else Issuer(oauth, lambda: key_set(oauth.jwks))
        metrics = Metrics()

        def stopped(reason: Stop) -> None:
            stops.append(reason)
            server.should_exit = True

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
        server = _Server(_config(service), lambda: ready(_url(where, http)))
        try:
            await server.serve(sockets=[where])
        finally:
            await asyncio.to_thread(commit.close)
    finally:
        where.close()
    if stops:
        raise stops[0]


def _writable(http: HttpSettings, kinds: Iterable[str]) -> set[str]:
    """Return the kinds that at least one client may write."""
    if http.oauth is not None:
        return set(kinds)
    return {kind for client in http.clients.values() for kind in client.scopes}


def _config(service: Service) -> uvicorn.Config:
    http = service.http
    config = uvicorn.Config(
        create(service),
        log_config=None,
        access_log=False,
        server_header=False,
        proxy_headers=False,
        ws="none",
        lifespan="off",
        # Longer than clients keep idle connections, so that none is closed while it is reused.
        timeout_keep_alive=75,
        timeout_graceful_shutdown=int(http.commit_seconds) + 5,
        ssl_certfile=http.certificate_file or None,
        ssl_keyfile=http.key_file or None,
        ssl_keyfile_password=http.key_password.get_secret_value() or None,
    )
    logging.getLogger("uvicorn").setLevel(logging.ERROR)
    try:
        config.load()
    except (OSError, ssl.SSLError) as error:
        raise Stop(
            f"TLS cannot start with certificate_file {http.certificate_file} and key_file "
            f"{http.key_file} ({error.strerror or type(error).__name__}); correct them in "
            "[producers.http]"
        ) from None
    return config


def _socket(http: HttpSettings) -> socket.socket:
    """Return the socket on which the service will listen.

    It is bound before anything else starts, so that a port in use is reported at once.
    """
    try:
        found = socket.getaddrinfo(http.host, http.port, type=socket.SOCK_STREAM)[0]
        # Name the protocol, or asyncio leaves Nagle's algorithm on: 40 ms for each answer.
        where = socket.socket(found[0], found[1], found[2])
        where.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        where.bind(found[4])
    except OSError as error:
        raise Stop(
            f"cannot listen on {http.host} port {http.port} ({error.strerror}); choose another "
            "address with --host and --port, or with host and port in [producers.http]"
        ) from None
    return where


def _url(where: socket.socket, http: HttpSettings) -> str:
    host, port = where.getsockname()[:2]
    scheme = "https" if http.certificate_file else "http"
    return f"{scheme}://[{host}]:{port}" if ":" in host else f"{scheme}://{host}:{port}"


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
