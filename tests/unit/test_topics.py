"""Names of topics, and the partition of a record."""

from __future__ import annotations

from collections.abc import Iterable
from concurrent.futures import Future
from types import SimpleNamespace
from typing import Any

import pytest
from confluent_kafka import KafkaError, KafkaException, TopicPartition

from bus.errors import Stop
from bus.kafka import topics
from bus.settings import Settings


def test_names() -> None:
    settings = Settings(topic_prefix="west")
    assert topics.topic(settings, "academicSession") == "west.academicSession"
    assert topics.kind_of(settings, "west.academicSession") == "academicSession"
    assert topics.kind_of(settings, "west.deadletters.canvas") is None
    assert topics.kind_of(settings, "schoolbus.student") is None


def test_one_owner_has_one_partition_and_owners_spread() -> None:
    placed = [topics.partition_for(f"student-{n}", 4) for n in range(10_000)]
    assert placed[0] == topics.partition_for("student-0", 4)
    assert all(2_200 < placed.count(partition) < 2_800 for partition in range(4))


def test_placement_is_librdkafkas_consistent_partitioner() -> None:
    """CRC-32 is the same in every language, so every producer can choose the same partition."""
    import zlib

    assert topics.partition_for("4711", 12) == zlib.crc32(b"4711") % 12


def test_topics_of_different_width_stop_the_program() -> None:
    with pytest.raises(Stop, match=r"schoolbus\.class 6, schoolbus\.student 4"):
        topics.count(Settings(), {"schoolbus.student": 4, "schoolbus.class": 6, "other": 9})


class Cluster:
    """A cluster without topics; a client that has once seen a topic missing keeps saying so.

    The second client sees no topic. The third sees one without a leader, and is not asked for offsets.
    """

    def __init__(self) -> None:
        self.clients = 0
        self.asked: list[int] = []

    def client(self, _: object) -> Any:
        self.clients += 1
        number = self.clients
        cluster = self

        class Client:
            def __init__(self) -> None:
                partition = SimpleNamespace(leader=-1 if number == 3 else 1)
                topic = SimpleNamespace(partitions=dict.fromkeys(range(6), partition))
                self.topics = {"schoolbus.student": topic} if number > 2 else {}

            def list_topics(self, timeout: float) -> Any:
                return self

            def create_topics(self, new: Iterable[Any], **_: object) -> dict[str, Future[None]]:
                return {topic.topic: _answer(None) for topic in new}

            def list_offsets(self, asked: Iterable[TopicPartition]) -> dict[Any, Future[None]]:
                cluster.asked.append(number)
                missing = KafkaException(KafkaError(KafkaError._NOENT))
                return {part: _answer(missing if number < 5 else None) for part in asked}

        return Client()


def _answer(error: Exception | None) -> Future[None]:
    future: Future[None] = Future()
    if error:
        future.set_exception(error)
    else:
        future.set_result(None)
    return future


def test_a_client_that_saw_a_topic_missing_is_not_asked_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    cluster = Cluster()
    monkeypatch.setattr(topics, "AdminClient", cluster.client)
    settings = Settings.model_validate({"kafka": {"bootstrap": "kafka:9092"}})
    topics.ensure(settings, ["schoolbus.student"])
    assert cluster.clients == 5  # one that created the topic, three that saw it missing, one more
    assert cluster.asked == [4, 5]
