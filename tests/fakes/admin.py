"""A fake of `confluent_kafka.admin.AdminClient`, as far as the bus uses it, on a fake broker."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

from confluent_kafka import OFFSET_END, OFFSET_INVALID, KafkaError, KafkaException

from tests.fakes.broker import Broker, Place, failure
from tests.fakes.consumer import committed, metadata


class FakeAdmin:
    """Creates topics, and returns their offsets and those of groups."""

    def __init__(self, broker: Broker, config: Mapping[str, Any]) -> None:
        self._broker = broker
        self._epoch: int | None = None  # of the leaders, learned when it first asked

    def list_topics(self, topic: str | None = None, timeout: float = -1) -> Any:
        """Return the topics and their partitions."""
        return metadata(self._broker, topic)

    def create_topics(self, new: Iterable[Any], **_: Any) -> dict[str, Future[None]]:
        """Create topics."""
        for topic in new:
            self._broker.create(topic.topic, topic.num_partitions)
        return {topic.topic: _done(None) for topic in new}

    def delete_topics(self, names: Iterable[str], **_: Any) -> dict[str, Future[None]]:
        """Delete topics."""
        return {
            name: _done(None)
            if self._broker.topics.pop(name, None) is not None
            else _failed(KafkaError.UNKNOWN_TOPIC_OR_PART)
            for name in names
        }

    def list_consumer_groups(self, **_: Any) -> Future[Any]:
        """Return the groups."""
        found = [SimpleNamespace(group_id=name) for name in self._broker.groups]
        return _done(SimpleNamespace(valid=found))

    def delete_consumer_groups(self, names: Iterable[str], **_: Any) -> dict[str, Future[None]]:
        """Delete groups that have no members."""
        return {name: self._without_group(name) for name in names}

    def _without_group(self, name: str) -> Future[None]:
        if name not in self._broker.groups:
            return _failed(KafkaError.GROUP_ID_NOT_FOUND)
        if self._broker.groups[name].members:
            return _failed(KafkaError.NON_EMPTY_GROUP)
        del self._broker.groups[name]
        return _done(None)

    def list_offsets(self, asked: Mapping[Any, Any], **_: Any) -> dict[Any, Future[Any]]:
        """Return the ends of partitions, before anything that is not committed.

        If a time is asked for: the first offset at this time or later, or -1.

        A client uses the leader epochs that it learned first, as librdkafka does.
        """
        self._broker.answer()
        if self._epoch is None:
            self._epoch = self._broker.restarts
        if self._epoch != self._broker.restarts:
            raise failure(KafkaError.FENCED_LEADER_EPOCH)
        return {
            p: _done(SimpleNamespace(offset=self._offset((p.topic, p.partition), spec)))
            for p, spec in asked.items()
        }

    def _offset(self, place: Place, spec: Any) -> int:
        milliseconds = getattr(spec, "_value", OFFSET_END)
        return self._broker.offset_at(place, OFFSET_END if milliseconds < 0 else milliseconds)

    def list_consumer_group_offsets(self, asked: Iterable[Any], **_: Any) -> dict[str, Any]:
        """Return what groups have committed, with the metadata."""
        self._broker.answer()
        return {
            one.group_id: _done(
                SimpleNamespace(
                    topic_partitions=[
                        committed(self._broker.group(one.group_id), place, OFFSET_INVALID)
                        for place in self._broker.group(one.group_id).committed
                    ]
                )
            )
            for one in asked
        }


def _failed(code: int) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_exception(KafkaException(KafkaError(code)))
    return future


def _done(result: Any) -> Future[Any]:
    future: Future[Any] = Future()
    future.set_result(result)
    return future
