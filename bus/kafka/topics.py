"""The topics: their names, the partition of each record, and how topics are created.

Each kind of record has one topic. All these topics have the same number of partitions, so what
concerns one student has the same partition number in each. A topic holds both history and current
state: compaction with a minimum lag of a school year keeps every change for that long, and the
latest state forever (Kafka, "Log Compaction"; `min.compaction.lag.ms`). Records about a single day
(attendance) are kept by time. Each schema says which of the two applies (`retention`).
"""

from __future__ import annotations

from contextlib import suppress
from zlib import crc32

from confluent_kafka import KafkaError, KafkaException, TopicPartition
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    NewTopic,
    OffsetSpec,
)
from tenacity import Retrying, retry_if_exception_type, stop_after_delay, wait_fixed

from bus.errors import RetryLater, Stop
from bus.kafka.client import client_settings
from bus.settings import Settings
from bus.standard import KINDS

DAY = 24 * 60 * 60 * 1000
DELETION_DAYS = 30
"""The days for which a vendor's topic keeps a deletion. A reader must not be away for longer."""
SECONDS_A_PARTITION = 0.05
"""How long a broker may take to create a partition. Fifty agreements have thousands of them."""

LATEST = {"cleanup.policy": "compact,delete", "retention.ms": str(30 * DAY)}
"""Keeps the latest value of each key for 30 days."""
NAMES = {"cleanup.policy": "compact"}
"""Keeps the latest value of each key forever."""
FOREVER = {"cleanup.policy": "delete", "retention.ms": "-1"}
"""Keeps every message forever."""
VENDOR = {
    "cleanup.policy": "compact,delete",
    "retention.ms": "-1",
    "delete.retention.ms": str(DELETION_DAYS * DAY),
}
"""Keeps the latest value of each key, and a deletion for `DELETION_DAYS`. Without `delete` in the
policy, Kafka does not allow DeleteRecords, which removes a field that is no longer shared."""
ERASABLE = {
    "cleanup.policy": "compact",
    "max.compaction.lag.ms": str(DAY),
    "delete.retention.ms": str(DAY),
}
"""Keeps the latest value of each key forever. Erased values are removed after a day, as soon as the
topic is written to again (KIP-354)."""


def topic(settings: Settings, kind: str) -> str:
    """Return the topic of a kind of record, such as `schoolbus.student`."""
    return settings.topic(kind)


def deadletters(settings: Settings, product: str) -> str:
    """Return the topic of a product's dead letters."""
    return settings.topic(f"deadletters.{product}")


def quarantine(settings: Settings) -> str:
    """Return the topic of rows that could not be published."""
    return settings.topic("quarantine")


def sources(settings: Settings) -> str:
    """Return the topic of the sources and their kinds."""
    return settings.topic("sources")


def positions(settings: Settings) -> str:
    """Return the topic of the positions at which polled and streaming sources continue."""
    return settings.topic("positions")


def idempotency(settings: Settings) -> str:
    """Return the topic of the HTTP source's idempotency keys."""
    return settings.topic("http-idempotency")


def replays(settings: Settings) -> str:
    """Return the topic of the replays and their progress."""
    return settings.topic("replays")


def audit(settings: Settings) -> str:
    """Return the topic that records who read which personal data, and why."""
    return settings.topic("audit")


def vendors(settings: Settings) -> str:
    """Return the topic of the agreements that have been applied."""
    return settings.topic("vendors")


def vendor_shards(settings: Settings) -> str:
    """Return the topic through which the shards of `bus vendors run` talk (`vendors.shards`)."""
    return settings.topic(f"vendors.shards-{settings.vendors.shards}")


def disclosures(settings: Settings) -> str:
    """Return the topic that records what was disclosed to which vendor."""
    return settings.topic("disclosures")


def is_vendor_topic(settings: Settings, topic_name: str) -> bool:
    """Return whether this is the topic of a vendor, such as `schoolbus.vendor.math-app.student`."""
    return topic_name.startswith(settings.topic("vendor."))


def disclosed_students(settings: Settings) -> str:
    """Return the topic that names the students of the record of disclosures."""
    return settings.topic("disclosures.students")


def internal(settings: Settings) -> dict[str, dict[str, str]]:
    """Return the bus's internal topics, each with the Kafka settings of its retention.

    The topics of records and of dead letters are not in it.
    """
    audited = {
        "cleanup.policy": "delete",
        "retention.ms": str(settings.retention.deadletter_days * DAY),
    }
    return {
        quarantine(settings): LATEST,
        sources(settings): NAMES,
        positions(settings): NAMES,
        idempotency(settings): LATEST,
        replays(settings): NAMES,
        audit(settings): audited,
        vendors(settings): ERASABLE,
        vendor_shards(settings): LATEST,
        disclosures(settings): FOREVER,
        disclosed_students(settings): ERASABLE,
    }


def partition_for(owner: str, partitions: int) -> int:
    """Return the partition of the records with this owner, the same in every topic.

    It is the CRC-32 of the owner's id modulo the number of partitions. That is librdkafka's
    `consistent` partitioner, so a producer in any language chooses the same partition with one
    setting.
    """
    return crc32(owner.encode()) % partitions


def kind_of(settings: Settings, topic_name: str) -> str | None:
    """Return the kind whose topic this is, or None."""
    prefix, _, kind = topic_name.rpartition(".")
    return kind if prefix == settings.topic_prefix and kind in KINDS else None


def ensure(settings: Settings, names: list[str]) -> None:
    """Create the topics that are missing, and leave existing topics as they are.

    Raises `Stop` if the cluster forbids it, or if the standard's topics have different numbers of
    partitions. Raises `RetryLater` if Kafka does not answer.
    """
    admin = AdminClient(client_settings(settings))
    try:
        existing = admin.list_topics(timeout=10).topics
    except KafkaException as error:
        raise RetryLater(
            f"Kafka does not answer ({error.args[0].name()}); check that it is running, and that "
            "[kafka] in bus.toml is correct. `bus doctor` gives details"
        ) from None
    partitions = count(settings, {name: len(meta.partitions) for name, meta in existing.items()})
    new = [_new_topic(settings, name, partitions) for name in names if name not in existing]
    for name, future in admin.create_topics(new, operation_timeout=15).items() if new else ():
        try:
            future.result()
        except KafkaException as error:
            if error.args[0].code() != KafkaError.TOPIC_ALREADY_EXISTS:
                raise Stop(
                    f"topic {name} is missing, and the cluster refuses to create it "
                    f"({error.args[0].name()}); create it with {partitions} partitions, or give "
                    "this user the right to create topics"
                ) from None
    parts = {name: len(existing[name].partitions) for name in names if name in existing}
    created = {topic.topic: topic.num_partitions for topic in new}
    _await_leaders(settings, created, max(30.0, SECONDS_A_PARTITION * sum(created.values())))
    with suppress(RetryLater):  # an unavailable partition must not stop work on the others
        _await_leaders(settings, parts, 5.0, first=admin)


def _await_leaders(
    settings: Settings, parts: dict[str, int], seconds: float, first: AdminClient | None = None
) -> None:
    """Wait until every partition of these topics can be read and written.

    A KRaft controller answers as soon as it has recorded a new topic. The brokers create its
    partitions a moment later (KIP-500, "Broker Metadata Management"). Raises `RetryLater` after
    `seconds`.

    parts: the number of partitions of each topic. Include existing topics, as another command may
           have created them just now.
    first: a client that has seen these topics. It answers sooner than a new one.
    """
    if not parts:
        return

    config = client_settings(settings)
    clients = [first] if first else []

    def check() -> None:
        # A new client each time: one that has not found a topic may keep reporting it as missing.
        admin = clients.pop() if clients else AdminClient(config)
        # Look for leaders first. When librdkafka is asked for the offsets of a partition without a
        # leader, it tries again only 3 s later.
        existing = admin.list_topics(timeout=10).topics
        for name, number in parts.items():
            if name not in existing or len(existing[name].partitions) < number:
                raise KafkaException(KafkaError(KafkaError.UNKNOWN_TOPIC_OR_PART))
            if any(partition.leader < 0 for partition in existing[name].partitions.values()):
                raise KafkaException(KafkaError(KafkaError.LEADER_NOT_AVAILABLE))
        for future in admin.list_offsets(requested).values():
            future.result()

    requested = {
        TopicPartition(name, number): OffsetSpec.latest()  # type: ignore[no-untyped-call]
        for name, partitions in parts.items()
        for number in range(partitions)
    }
    retrying = Retrying(
        retry=retry_if_exception_type(KafkaException),
        wait=wait_fixed(0.1),
        stop=stop_after_delay(seconds),
        reraise=True,
    )
    try:
        retrying(check)
    except KafkaException as error:
        raise RetryLater(
            f"a partition has no leader ({error.args[0].name()}); try again when all brokers are "
            "available"
        ) from None


def count(settings: Settings, existing: dict[str, int]) -> int:
    """Return the number of partitions of the standard's topics.

    The number in the cluster counts, or the setting if the cluster has no such topic yet. Raises
    `Stop` if the topics have different numbers.

    existing: the number of partitions of every topic in the cluster.
    """
    ours = {name: existing[name] for kind in KINDS if (name := topic(settings, kind)) in existing}
    if len(set(ours.values())) > 1:
        listed = ", ".join(f"{name} {number}" for name, number in sorted(ours.items()))
        raise Stop(
            "the standard's topics must all have the same number of partitions, but they have: "
            f"{listed}. Set another topic_prefix, and publish into new topics"
        )
    return next(iter(ours.values()), settings.kafka.partitions)


def config(settings: Settings, name: str) -> dict[str, str]:
    """Return the Kafka settings that say how long a topic keeps its data.

    See `bus.kafka.retention`.
    """
    kind, rules = kind_of(settings, name), settings.retention
    if kind and KINDS[kind].retention == "time":
        return {"cleanup.policy": "delete", "retention.ms": str(rules.attendance_days * DAY)}
    if kind:
        return {"cleanup.policy": "compact", "min.compaction.lag.ms": str(rules.history_days * DAY)}
    if name.startswith(f"{settings.topic_prefix}.deadletters."):
        return {"cleanup.policy": "delete", "retention.ms": str(rules.deadletter_days * DAY)}
    if is_vendor_topic(settings, name):
        return VENDOR
    return internal(settings).get(name, LATEST)


def _new_topic(settings: Settings, name: str, partitions: int) -> NewTopic:
    number = 1
    if kind_of(settings, name) or is_vendor_topic(settings, name):
        number = partitions
    elif name == vendor_shards(settings):
        number = settings.vendors.shards + 1
    return NewTopic(
        name,
        num_partitions=number,
        replication_factor=settings.kafka.replication or -1,
        config=config(settings, name),
    )
