"""Publishes events in Kafka transactions: readers see all of a transaction or none of it.

Each source has a separate transactional id. Starting a publisher fences off every earlier process
of the same source: Kafka aborts the earlier process's open transaction, and that process can
publish nothing more (Kafka, KIP-98 and KIP-890). After a kill at any moment, readers of committed
data therefore see whole transactions and nothing else. A producer whose connection broke is
replaced in the same way before the next transaction: see `bus.kafka.connection_watch`.
"""

from __future__ import annotations

import logging
import uuid
from collections.abc import Collection, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import count
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException, Producer

from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import Change, Headers, envelope
from bus.kafka.connection_watch import LOG_SETTINGS, ConnectionWatch
from bus.kafka.kafka_errors import explained, failure
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.standard import KINDS, Record

if TYPE_CHECKING:
    import pyarrow

STEP_SECONDS = 60.0
"""The timeout of one request of a transaction, such as its commit, in seconds."""

TRANSACTION_RECORDS = 50_000
"""A transaction with this many records takes no further batch. It can have more: the last batch
(up to `bus.ingest.pipeline.BATCH` records), faults and a position are added whole. A reader of
committed data waits until the transaction ends."""


class Publisher:
    """Publishes the events of one source.

    Use it from one thread only.

    source:      the CloudEvents source of all its events: `/oneroster-csv`.
    time:        the CloudEvents time of all its events, RFC 3339 in UTC.
    traceparent: the W3C trace context of the run, or None.
    schema_ids:  for each kind, the id of our schema in the registry.
    unchecked:   for some kinds, the fields whose references the source could not check. Set it
                 before these kinds are published.
    replaced:    whether a connection broke and a second producer took over. If so, the caller must
                 not assume that all events were published: it must read the topics again.
    """

    def __init__(
        self,
        settings: Settings,
        source: str,
        schema_ids: dict[str, int],
        *,
        time: str,
        traceparent: str | None = None,
    ) -> None:
        self._settings = settings
        self._source = source
        self._time = time
        self._traceparent = traceparent
        self._encoders = {kind: Encoder(kind, id_) for kind, id_ in schema_ids.items()}
        self._run = uuid.uuid4().hex
        self._number = count(1)
        self.replaced = False
        self.unchecked: Mapping[str, Collection[str]] = {}
        self._partitions = topics.count(settings, self._start())

    def _start(self) -> dict[str, int]:
        """Start a new producer. From then on, Kafka rejects requests of the earlier ones.

        Returns the number of partitions of each existing topic.
        """
        self._watch = ConnectionWatch()
        name = f"{self._settings.topic_prefix}{self._source}"  # the source begins with a slash
        self._producer = Producer(producer_settings(self._settings, name, self._watch))
        with explained("start publishing"):
            return fence(self._producer)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Publish in one transaction: readers see everything from this block, or nothing."""
        self._producer.poll(0)
        if self._watch:
            self.close()
            self._start()
            self.replaced = True
        with explained("publish"):
            self._producer.begin_transaction()
        try:
            yield
            with explained("commit the published events"):
                self._producer.commit_transaction(STEP_SECONDS)
        except BaseException:
            # If the broker is unavailable, the next publisher to start aborts the transaction.
            try:
                self._producer.abort_transaction(STEP_SECONDS)
            except KafkaException:
                logging.getLogger(__name__).debug(
                    "could not abort the transaction; the next start aborts it"
                )
            raise

    def publish(self, kind: str, change: Change, batch: pyarrow.RecordBatch) -> None:
        """Publish records of one kind within a transaction.

        batch: records as columns, as `bus.registry.batch_codec` describes them.
        """
        shared = envelope(
            kind,
            change,
            source=self._source,
            time=self._time,
            traceparent=self._traceparent,
            unchecked=self.unchecked.get(kind, ()) if change != "withdrawn" else (),
        )
        name = topics.topic(self._settings, kind)
        ids = batch.column("sourcedId").to_pylist()
        owners = batch.column(KINDS[kind].owner).to_pylist()
        partitions = {owner: topics.partition_for(owner, self._partitions) for owner in set(owners)}
        produce, run, numbers = self._producer.produce, self._run, self._number
        for value, id_, owner in zip(
            self._encoders[kind].encode_all(batch), ids, owners, strict=True
        ):
            headers = [*shared, ("ce_id", f"{run}-{next(numbers)}".encode())]
            try:
                produce(name, value, id_, partitions[owner], headers=headers)
            except (BufferError, KafkaException):
                self._send(name, value, id_, partitions[owner], headers)

    def publish_records(
        self, kind: str, change: Change, records: Sequence[Record], time: str
    ) -> None:
        """Publish single records of one kind within a transaction.

        time: when the bus received the change from the SIS; RFC 3339 in UTC.
        """
        shared = envelope(
            kind, change, source=self._source, time=time, traceparent=self._traceparent
        )
        name, owner = topics.topic(self._settings, kind), KINDS[kind].owner
        for record in records:
            headers = [*shared, ("ce_id", f"{self._run}-{next(self._number)}".encode())]
            partition = topics.partition_for(record[owner], self._partitions)
            value = self._encoders[kind].encode(record)
            self._send(name, value, record["sourcedId"], partition, headers)

    def raw(self, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
        """Publish bytes unchanged within a transaction.

        value: None is a tombstone: Kafka deletes earlier values of the key when it compacts.
        """
        self._send(topic, value, key, 0, headers)

    def _send(
        self,
        topic: str,
        value: bytes | None,
        key: str | bytes,
        partition: int,
        headers: Headers,
    ) -> None:
        produce = self._producer.produce
        while True:
            try:
                produce(topic, value, key, partition, headers=headers)
                return
            except BufferError:  # librdkafka's queue is full: wait until it has room
                self._producer.poll(0.1)
            except KafkaException as error:
                raise failure("publish", error.args[0]) from None

    def close(self) -> None:
        """Drop what is not committed. Wait at most five seconds for the producer to end."""
        self._producer.purge()
        self._producer.flush(5)


def fence(producer: Producer) -> dict[str, int]:
    """Prepare a producer for transactions, and fence off earlier users of its transactional id.

    Returns the number of partitions of each existing topic. The topics are requested first, because
    a producer without a connection looks for its coordinator only every half second (librdkafka,
    rdkafka_txnmgr.c).
    """
    existing = producer.list_topics(timeout=STEP_SECONDS).topics
    producer.init_transactions(STEP_SECONDS)
    return {name: len(topic.partitions) for name, topic in existing.items()}


def producer_settings(
    settings: Settings, transactional_id: str, watch: ConnectionWatch
) -> dict[str, Any]:
    """Return librdkafka's settings for a producer of transactions.

    Check `watch` before each transaction. When it is true, a connection has broken: begin no
    transaction with this producer, or events may be lost or duplicated.
    """
    return {
        "linger.ms": 20,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 200_000,
        **client_settings(settings),
        "transactional.id": transactional_id,
        "enable.idempotence": True,
        "acks": "all",
        "transaction.timeout.ms": 300_000,
        "logger": watch,
        **LOG_SETTINGS,
    }
