"""A fake of `confluent_kafka.Producer`, as far as the bus uses it, on a fake broker."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from typing import Any

from confluent_kafka import KafkaError

from tests.fakes.broker import Broker, failure
from tests.fakes.consumer import metadata

Report = Callable[[Any, Any], None]


class FakeProducer:
    """Keeps the produced messages until `flush`, or until their transaction is committed."""

    def __init__(self, broker: Broker, config: Mapping[str, Any]) -> None:
        self._broker = broker
        self._id = str(config.get("transactional.id", ""))
        self._epoch = 0
        self._kept: list[tuple[str, dict[str, Any], Report | None]] = []
        self._open = False

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """Return the topics and their partitions."""
        return metadata(self._broker, topic)

    def produce(
        self,
        topic: str,
        value: bytes | None = None,
        key: bytes | None = None,
        headers: Any = None,
        on_delivery: Report | None = None,
    ) -> None:
        """Take a message; a missing topic shows only when the message is written."""
        self._kept.append((topic, {"key": key, "value": value, "headers": headers}, on_delivery))

    def poll(self, timeout: float) -> int:
        """Do nothing: reports come with `flush`."""
        return 0

    def flush(self, timeout: float) -> int:
        """Write the messages; return how many were not written. They are dropped."""
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
        """Fence off the earlier owner of the transactional id."""
        self._broker.answer()
        self._epoch = self._broker.epochs.get(self._id, 0) + 1
        self._broker.epochs[self._id] = self._epoch

    def abort_transaction(self, timeout: float) -> None:
        """Write nothing of the transaction."""
        self._broker.answer()
        self._kept, self._open = [], False

    def begin_transaction(self) -> None:
        """Begin a transaction; raise if one is open."""
        if self._open:
            raise failure(KafkaError._STATE)
        self._kept, self._open = [], True

    def commit_transaction(self, timeout: float) -> None:
        """Write the transaction and make it readable."""
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
