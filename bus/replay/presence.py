"""Detects whether the process that runs a replay is still alive.

While it runs, it is the only member of a separate consumer group, `PREFIX.replay.ID`. It reads and
commits nothing there. However the process ends, Kafka removes a member that is silent for
`session.timeout.ms` (KIP-62; Kafka, "Consumer Configs").
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.kafka import topics
from bus.kafka.client import client_settings, group_settings
from bus.replay.replay_log import ReplayEntry
from bus.settings import Settings

log = structlog.get_logger(__name__)

SILENT = timedelta(seconds=20)
"""A running replay has joined its group before its last entry in the log is this old."""
SECONDS = 10.0
LEAVING_SECONDS = 10.0


class Presence:
    """A context manager that shows Kafka that this process runs a replay."""

    def __init__(self, settings: Settings, id_: str) -> None:
        self._settings = settings
        self._id = id_
        self._ending = threading.Event()
        self._thread = threading.Thread(
            target=self._stay_member, name=f"presence {id_}", daemon=True
        )

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._ending.set()
        self._thread.join(LEAVING_SECONDS)

    def _stay_member(self) -> None:
        """Be a member of the group. A failure is only logged: the replay works without it."""
        try:
            consumer = Consumer(group_settings(self._settings, _group(self._id)))
            consumer.subscribe([topics.replays(self._settings)], on_assign=_read_nothing)
            while not self._ending.wait(0.5):
                consumer.poll(0)
            consumer.close()
        except KafkaException as error:
            log.info("could not join the replay's group", error=error.args[0].name())


def died(settings: Settings, entries: Collection[ReplayEntry]) -> set[str]:
    """Return the ids of the replays whose process died before it recorded their end.

    Only replays whose last entry in the log is older than `SILENT` are looked up. Returns none if
    Kafka does not answer.
    """
    before = datetime.now(UTC) - SILENT
    groups = {
        f"{settings.topic_prefix}.{_group(one.about.id)}": one.about.id
        for one in entries
        if one.status == "running" and one.state.at and _moment(one.state.at) < before
    }
    if not groups:
        return set()
    try:
        # Keep the client until it has answered: the future of a deleted client never ends.
        admin = AdminClient(client_settings(settings))
        described = admin.describe_consumer_groups(list(groups), request_timeout=SECONDS)
        return {groups[group] for group, one in described.items() if not one.result().members}
    except KafkaException as error:
        log.info("could not find out which replays died", error=error.args[0].name())
        return set()


def _group(id_: str) -> str:
    return f"replay.{id_}"


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _read_nothing(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    consumer.incremental_assign(partitions)
    consumer.pause(partitions)
