"""Publishes events in Kafka transactions: all of a transaction is there for readers, or nothing.

A publisher has a transactional id of its source's own. Starting one fences off whatever is left of
an earlier process of the same source: its open transaction is aborted, and it can publish no more
(Kafka, KIP-98 and KIP-890). So after a kill at any moment the topics hold whole transactions only,
and what they hold is all that has been published. In the same way a producer whose connection broke
is replaced before the next transaction: see `bus.kafka.connection_watch`.
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
from bus.kafka.connection_watch import HEARD, ConnectionWatch
from bus.kafka.kafka_errors import explained, failure
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.standard import KINDS, Record

if TYPE_CHECKING:
    import pyarrow

SECONDS = 60.0
"""How long Kafka may take for one step of a transaction."""

TRANSACTION_RECORDS = 50_000
"""How many events at most are in one transaction: a reader of committed data waits for its end."""


class Publisher:
    """Publishes the events of one source. Not for several threads.

    source:      the CloudEvents source of all its events: `/oneroster-csv`.
    time:        the CloudEvents time of all its events, RFC 3339 in UTC.
    traceparent: the W3C trace context of the run, or None.
    schema_ids:  for each kind the id under which the registry knows our schema.
    unchecked:   for some kinds the fields whose references the source could not check; may be set
                 at any time before these are published.
    replaced:    whether a connection broke, so that a second producer had to go on; what the topics
                 hold is then better read than reckoned.
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
        """A new producer; all that an earlier one of this source still has on its way is void.

        Gives the topics that are there, with the number of their partitions.
        """
        self._doubt = ConnectionWatch()
        name = f"{self._settings.topic_prefix}{self._source}"
        self._producer = Producer(producer_settings(self._settings, name, self._doubt))
        with explained("start publishing"):
            return fence(self._producer)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All that is published inside is there for readers when it ends, or nothing of it."""
        self._producer.poll(0)
        if self._doubt:
            self.close()
            self._start()
            self.replaced = True
        with explained("publish"):
            self._producer.begin_transaction()
        try:
            yield
            with explained("commit what was published"):
                self._producer.commit_transaction(SECONDS)
        except BaseException:
            # What cannot be aborted now (the broker is gone) is aborted by whoever starts next.
            try:
                self._producer.abort_transaction(SECONDS)
            except KafkaException:
                logging.getLogger(__name__).debug("the transaction is left for the next start")
            raise

    def publish(self, kind: str, change: Change, batch: pyarrow.RecordBatch) -> None:
        """Publish records of one kind within a transaction; `batch` as `bus.registry.batch_codec`
        has it.
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
        places = {owner: topics.partition_for(owner, self._partitions) for owner in set(owners)}
        produce, run, numbers = self._producer.produce, self._run, self._number
        for value, id_, owner in zip(
            self._encoders[kind].encode_all(batch), ids, owners, strict=True
        ):
            headers = [*shared, ("ce_id", f"{run}-{next(numbers)}".encode())]
            try:
                produce(name, value, id_, places[owner], headers=headers)
            except (BufferError, KafkaException):
                self._send(name, value, id_, places[owner], headers)

    def publish_records(
        self, kind: str, change: Change, records: Sequence[Record], time: str
    ) -> None:
        """Publish single records of one kind within a transaction.

        time: when the change was learned from the system; RFC 3339 in UTC.
        """
        shared = envelope(
            kind, change, source=self._source, time=time, traceparent=self._traceparent
        )
        name, owner = topics.topic(self._settings, kind), KINDS[kind].owner
        for record in records:
            headers = [*shared, ("ce_id", f"{self._run}-{next(self._number)}".encode())]
            place = topics.partition_for(record[owner], self._partitions)
            value = self._encoders[kind].encode(record)
            self._send(name, value, record["sourcedId"], place, headers)

    def raw(self, topic: str, key: bytes, value: bytes | None, headers: Headers) -> None:
        """Publish bytes as they are within a transaction; None: the key has no value any more."""
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
            except BufferError:  # librdkafka's queue is full: wait until some of it is gone
                self._producer.poll(0.1)
            except KafkaException as error:
                raise failure("publish", error.args[0]) from None

    def close(self) -> None:
        """Wait for nothing: what is not committed by now is not meant to be."""
        self._producer.purge()
        self._producer.flush(5)


def fence(producer: Producer) -> dict[str, int]:
    """Make ready for transactions; whoever had the transactional id before can write no more.

    Gives the topics that are there, with the number of their partitions. They are asked for first,
    as a producer that has no connection yet looks for its coordinator only every half a second
    (librdkafka, rdkafka_txnmgr.c).
    """
    there = producer.list_topics(timeout=SECONDS).topics
    producer.init_transactions(SECONDS)
    return {name: len(topic.partitions) for name, topic in there.items()}


def producer_settings(
    settings: Settings, transactional_id: str, doubt: ConnectionWatch
) -> dict[str, Any]:
    """librdkafka's settings for a producer whose transactions lose and double nothing, as long as
    none is begun when there is doubt."""
    return {
        "linger.ms": 20,
        "compression.type": "lz4",
        "queue.buffering.max.messages": 200_000,
        **client_settings(settings),
        "transactional.id": transactional_id,
        "enable.idempotence": True,
        "acks": "all",
        "transaction.timeout.ms": 300_000,
        "logger": doubt,
        **HEARD,
    }
