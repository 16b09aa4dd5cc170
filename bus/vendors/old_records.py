"""What a vendor's topics had before they were written whole: its deletion.

A district takes a field, a class or a school out of an agreement. Then the vendor's topics are
written again, and what was there before must go: a reader who has an old record must hear that it
is deleted, and nobody must be able to read an old value (`DeleteRecords`, KIP-107).
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
    """Yield the place and the key of each record that was there and was not written again.

    That may be a record whose deletion is among the old messages: a reader that is behind has not
    read the deletion yet, and `delete` takes it away.

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
