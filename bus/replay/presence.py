"""Whether the process that runs a replay still lives.

While it runs, it is the one member of a group of its own, `PREFIX.replay.ID`, in which it reads
nothing and commits nothing. Kafka itself counts a member out that is silent for
`session.timeout.ms`, whatever ended it (KIP-62; Kafka, "Consumer Configs").
"""

from __future__ import annotations

import threading
from collections.abc import Collection
from datetime import UTC, datetime, timedelta
from types import TracebackType

import structlog
from confluent_kafka import Consumer, KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.kafka import topics
from bus.kafka.client import client_settings, group_settings
from bus.replay.replay_log import ReplayEntry
from bus.settings import Settings

log = structlog.get_logger(__name__)

SILENT = timedelta(seconds=20)
"""What was noted of a running replay is never so old while it is not in its group yet."""
SECONDS = 10.0
LEAVING_SECONDS = 10.0


class Presence:
    """Shows that this process runs a replay, while the block does."""

    def __init__(self, settings: Settings, id_: str) -> None:
        self._settings = settings
        self._id = id_
        self._ending = threading.Event()
        self._thread = threading.Thread(target=self._be, name=f"presence {id_}", daemon=True)

    def __enter__(self) -> Presence:
        self._thread.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._ending.set()
        self._thread.join(LEAVING_SECONDS)

    def _be(self) -> None:
        """Be a member; a replay does its work whether or not that goes."""
        try:
            consumer = Consumer(group_settings(self._settings, _group(self._id)))
            consumer.subscribe([topics.replays(self._settings)], on_assign=_read_nothing)
            while not self._ending.wait(0.5):
                consumer.poll(0)
            consumer.close()
        except KafkaException as error:
            log.info("this replay cannot show that it runs", error=error.args[0].name())


def died(settings: Settings, entries: Collection[ReplayEntry]) -> set[str]:
    """The ids of the replays that nobody runs although nobody has noted their end.

    None where Kafka does not say. Asked only of those of which nothing was noted for a while.
    """
    before = datetime.now(UTC) - SILENT
    asked = {
        f"{settings.topic_prefix}.{_group(one.about.id)}": one.about.id
        for one in entries
        if one.status == "running" and one.state.at and _moment(one.state.at) < before
    }
    if not asked:
        return set()
    try:
        # The client must live until it has answered: who waits for one that is gone waits for ever.
        admin = AdminClient(client_settings(settings))
        told = admin.describe_consumer_groups(list(asked), request_timeout=SECONDS)
        return {asked[group] for group, one in told.items() if not one.result().members}
    except KafkaException as error:
        log.info("who runs replays is not known", error=error.args[0].name())
        return set()


def _group(id_: str) -> str:
    return f"replay.{id_}"


def _moment(text: str) -> datetime:
    at = datetime.fromisoformat(text)
    return at if at.tzinfo else at.replace(tzinfo=UTC)


def _read_nothing(consumer: Consumer, partitions: list[TopicPartition]) -> None:
    consumer.incremental_assign(partitions)
    consumer.pause(partitions)
