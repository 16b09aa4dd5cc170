"""Finds consumer groups that may have missed a deletion in a vendor's topics.

Kafka removes a deletion (a message without a value) `bus.kafka.topics.DELETION_DAYS` days after it
was written, at the earliest. A group that has left messages unread for longer may have missed one,
and then its program keeps the record forever. Such a group reads late. It must start anew.

A group that began at the first message may take just as long until it comes to the end (Apache
Kafka documentation, "Topic Configs", `delete.retention.ms`: "a bound on the time in which a
consumer must complete a read if they begin from offset 0"). The timestamps of unread messages do
not show when a group began. After an agreement was changed, they do not show either how long a
group has left messages unread that `bus.vendors.old_records` has removed since. So
`bus.subscribe` commits, with each offset, the time up to which its group has missed nothing. The
time is in the metadata of the offset, a text that Kafka keeps (Apache Kafka protocol,
"OffsetCommit"). The groups of other programs have no such time.
"""

from __future__ import annotations

import time
from collections.abc import Iterable, Mapping

from confluent_kafka import TopicPartition

from bus.delivery import Position
from bus.kafka import topics

COMPLETE = "schoolbus-complete-at="


def now() -> int:
    """Return the time in milliseconds since 1970."""
    return int(time.time() * 1000)


def oldest_deletion() -> int:
    """Return the time since which Kafka has removed no deletion, in milliseconds since 1970."""
    return now() - topics.DELETION_DAYS * topics.DAY


def metadata(complete_at: int) -> str:
    """Return the metadata of an offset: until when the group has missed no deletion.

    complete_at: milliseconds since 1970.
    """
    return f"{COMPLETE}{complete_at}"


def complete_at(partition: TopicPartition) -> int:
    """Return until when a group has missed no deletion, in milliseconds since 1970; 0: unknown."""
    kind, _, text = (partition.metadata or "").partition("=")
    return int(text) if f"{kind}=" == COMPLETE and text.isascii() and text.isdigit() else 0


def late(
    committed: Iterable[TopicPartition], first: Mapping[Position, int], oldest: int
) -> list[Position]:
    """Return the partitions in which a group may have missed a deletion.

    committed: what the group has committed; a negative offset means nothing.
    first:     the first offset of each partition whose message was written at `oldest` or later;
               its end if no message is that new.
    oldest:    the time since which Kafka has removed no deletion (`oldest_deletion`).
    """
    return [
        place
        for one in committed
        if 0 <= one.offset < first.get(place := Position(one.topic, one.partition), 0)
        and complete_at(one) < oldest
    ]
