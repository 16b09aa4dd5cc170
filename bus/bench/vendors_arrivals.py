"""Reads vendors' topics while they are written, and keeps when each message arrived."""

from __future__ import annotations

import threading
import time
from collections import defaultdict
from collections.abc import Mapping, Sequence
from typing import NamedTuple

from confluent_kafka import Consumer, Message, TopicPartition

from bus.kafka.client import client_settings
from bus.settings import Settings
from bus.vendors.vendor_schema import vendor_topic


class VendorArrival(NamedTuple):
    """A message in a vendor's topic: when it was read (`time.time`), and whether it deletes."""

    at: float
    deletes: bool


class Arrivals:
    """The messages about records of one kind, in the topics of several agreements.

    A thread reads them from the beginning of the topics until `close` is called.
    """

    def __init__(self, settings: Settings, names: Sequence[str], kind: str) -> None:
        self._names = {vendor_topic(settings, name, kind): name for name in names}
        self._found: dict[str, dict[str, list[VendorArrival]]] = {
            name: defaultdict(list) for name in names
        }
        self._last = dict.fromkeys(names, 0.0)
        self._lock = threading.Lock()
        self._over = threading.Event()
        # Kafka answers as soon as there is a message. A shorter wait would only make it work more.
        self._consumer = Consumer(
            client_settings(settings) | {"group.id": f"{settings.topic_prefix}.arrivals"}
        )
        there = self._consumer.list_topics(timeout=15).topics
        self._consumer.assign(
            [TopicPartition(one, part, 0) for one in self._names for part in there[one].partitions]
        )
        self._thread = threading.Thread(target=self._read, name="arrivals")
        self._thread.start()

    def of(self, name: str) -> Mapping[str, Sequence[VendorArrival]]:
        """Return what has arrived under an agreement, by the vendor's id, in order."""
        with self._lock:
            return {id_: tuple(arrivals) for id_, arrivals in self._found[name].items()}

    def last(self, name: str) -> float:
        """Return when the last message arrived under an agreement; 0 if there was none."""
        return self._last[name]

    def close(self) -> None:
        """Stop reading."""
        self._over.set()
        self._thread.join()
        self._consumer.close()

    def _read(self) -> None:
        while not self._over.is_set():
            first = self._consumer.poll(0.05)
            if first is not None:
                more: list[Message] = self._consumer.consume(1_000, timeout=0)
                self._keep([first, *more], time.time())

    def _keep(self, messages: Sequence[Message], now: float) -> None:
        with self._lock:
            for message in messages:
                if message.error() is None:
                    name = self._names[message.topic() or ""]
                    id_ = (message.key() or b"").decode()
                    self._found[name][id_].append(VendorArrival(now, message.value() is None))
                    self._last[name] = now
