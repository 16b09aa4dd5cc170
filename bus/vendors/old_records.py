"""Deletes the old records of a vendor's topics after the topics have been written again.

When a district takes a field, a class or a school out of an agreement, the projection writes the
vendor's topics again. A reader that has an old record must receive its deletion, and nobody must be
able to read an old value (`DeleteRecords`, KIP-107).
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping

from confluent_kafka import KafkaException, TopicPartition
from confluent_kafka.admin import AdminClient

from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader, position
from bus.settings import Settings

NOT_READ = "could not read a vendor's topic: Kafka reports {}"


def ends(settings: Settings, topics: Collection[str]) -> dict[Position, int]:
    """Return the end offset of each partition of a vendor's topics.

    Raises `RetryLater` if Kafka does not answer.
    """
    with Reader(settings, NOT_READ) as reader:
        return reader.ends(topics)


def not_written_again(
    settings: Settings, old: Mapping[Position, int]
) -> Iterator[tuple[Position, bytes]]:
    """Yield the place and the key of each old record that was not written again.

    That includes records whose deletion is among the old messages. A reader that lags may not have
    read this deletion yet, and `delete` removes it.

    old: the end of each partition before the topics were written again.

    Raises `RetryLater` if Kafka fails.
    """
    keys: dict[tuple[Position, bytes], None] = {}
    with Reader(settings, NOT_READ) as reader:
        first = {place: low for place, (low, _) in reader.marks(old).items()}
        for batch in reader.batches(first):
            for message in batch:
                place = position(message)
                key = (place, message.key() or b"")
                if (message.offset() or 0) < old[place]:
                    keys[key] = None
                else:
                    keys.pop(key, None)
    yield from keys


def delete(settings: Settings, old: Mapping[Position, int]) -> None:
    """Delete all records before these offsets.

    Raises `RetryLater` if Kafka does not do it.
    """
    if not old:
        return
    admin = AdminClient(client_settings(settings))
    requested = [TopicPartition(*place, end) for place, end in old.items()]
    for future in admin.delete_records(requested).values():
        try:
            future.result()
        except KafkaException as error:
            raise RetryLater(
                f"could not delete old records of a vendor: Kafka reports {error.args[0].name()}"
            ) from None
