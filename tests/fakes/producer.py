"""What `confluent_kafka.Producer` does, as far as the bus uses it, on a fake broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError

from tests.fakes.broker import Broker, failure
from tests.fakes.consumer import metadata

Report = Callable[[Any, Any], None]


class FakeProducer:
    """Keeps what is produced until `flush`, or until its transaction is committed."""

    def __init__(self, broker: Broker, config: Mapping[str, Any]) -> None:
        self._broker = broker
        self._id = str(config.get("transactional.id", ""))
        self._epoch = 0
        self._kept: list[tuple[str, dict[str, Any], Report | None]] = []
        self._open = False

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """The topics and their partitions."""
        return metadata(self._broker, topic)

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Any = None,
        on_delivery: Report | None = None,
    ) -> None:
        """Take a message; whether its topic is there shows only when it is written."""
        self._kept.append((topic, {"key": key, "value": value, "headers": headers}, on_delivery))

    def poll(self, timeout: float) -> int:
        """Nothing: reports come with `flush`."""
        return 0

    def flush(self, timeout: float) -> int:
        """Write what was taken; how much was not written, which is taken no longer."""
        kept, self._kept = self._kept, []
        silent = self._broker.unwritten > 0
        self._broker.unwritten -= silent
        for topic, message, report in kept:
            failed = silent or topic not in self._broker.topics
            if not failed:
                partition = self._broker.partition(topic, message["key"])
                self._broker.append(topic, partition, **message)
            if report:
                report(KafkaError(KafkaError._MSG_TIMED_OUT) if failed else None, None)
        return 0

    # ---- transactions --------------------------------------------------------------------------

    def init_transactions(self, timeout: float) -> None:
        """Fence off whoever had the transactional id."""
        self._broker.answer()
        self._epoch = self._broker.epochs.get(self._id, 0) + 1
        self._broker.epochs[self._id] = self._epoch

    def abort_transaction(self, timeout: float) -> None:
        """Write nothing of it."""
        self._broker.answer()
        self._kept, self._open = [], False

    def begin_transaction(self) -> None:
        """Begin one; not while another is open."""
        if self._open:
            raise failure(KafkaError._STATE)
        self._kept, self._open = [], True

    def commit_transaction(self, timeout: float) -> None:
        """Write all of it, and let it be read."""
        self._broker.answer()
        if self._broker.ends:
            raise failure(self._broker.ends.pop(0))
        if self._broker.epochs[self._id] != self._epoch:
            raise failure(KafkaError._FENCED)
        transaction = self._broker.transaction()
        for topic, message, _ in self._kept:
            partition = self._broker.partition(topic, message["key"])
            transaction.append(topic, partition, **message)
        transaction.commit()
        self._kept, self._open = [], False
