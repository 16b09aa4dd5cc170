"""A district's topics to the topics of one vendor in a bare loop, without scope, ids and order.

It consumes, decodes and encodes each record with fastavro, and produces it with the headers of the
projection (`bus.vendors.outbox`). It keeps nothing, so it also has no view of the district.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from io import BytesIO
from secrets import token_hex
from typing import Any

from confluent_kafka import Consumer, Producer, TopicPartition
from fastavro import parse_schema, schemaless_reader, schemaless_writer

from bus.bench.peers.bare_consumer import reader_settings, records_to_end
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.registry.codec import FRAME, MAGIC
from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors import applied
from bus.vendors.outbox import PRODUCER, event_type, headers, scope_mark
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_schema import lookup, vendor_schema, vendor_topic


def bare_projection(settings: Settings, name: str) -> Callable[[], int]:
    """Prepare the loop for an agreement that has been applied.

    It writes every record of the shared kinds, with the shared fields and the real ids. The
    function that is returned runs it and returns the number of records.
    """
    one = applied.read(settings)[name]
    scope, mark = compile_scope(one.agreement), scope_mark(one.edition).encode()
    ids = lookup(settings, name, scope)
    by_topic = {
        topics.topic(settings, kind): (
            parse_schema(KINDS[kind].schema),
            parse_schema(vendor_schema(scope, kind, name)),
            FRAME.pack(MAGIC, ids[kind]),
            vendor_topic(settings, name, kind),
            event_type(kind, "updated"),
        )
        for kind in scope.kinds
    }

    def run() -> int:
        consumer = Consumer(reader_settings(settings))
        there = consumer.list_topics(timeout=15).topics
        consumer.assign(
            [
                TopicPartition(topic, part, 0)
                for topic in by_topic
                for part in there[topic].partitions
            ]
        )
        producer = Producer(client_settings(settings) | PRODUCER)
        number = 0
        for message in records_to_end(consumer, by_topic):
            ours, theirs, frame, topic, type_ = by_topic[message.topic() or ""]
            source = BytesIO(message.value() or b"")
            source.seek(FRAME.size)
            out = BytesIO()
            out.write(frame)
            record: Any = schemaless_reader(source, ours, None)
            schemaless_writer(out, theirs, record)
            at = int(time.time())
            sent: Any = headers(token_hex(12), type_, at, mark)
            key, part = message.key() or b"", message.partition() or 0
            while True:
                try:
                    producer.produce(
                        topic, out.getvalue(), key, part, headers=sent, timestamp=at * 1000
                    )
                    break
                except BufferError:
                    producer.poll(0.1)
            producer.poll(0)
            number += 1
        producer.flush()
        consumer.close()
        return number

    return run
