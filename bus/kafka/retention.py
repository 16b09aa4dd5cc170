"""How long each topic keeps history, and how much disk that takes in a given district.

`[retention]` says how long. New topics get these settings, except for tiered storage. `bus topics
plan --apply` changes existing topics to match. Record topics are compacted (Kafka, "Log
Compaction"): Kafka keeps every change for `history_days`, and the latest state of each record
forever. A topic that is kept by time alone can use tiered storage (KIP-405), if the district's
cluster has it. A compacted topic cannot (Kafka, "Tiered Storage", Limitations; KIP-1272 proposes
it).

The schemas say which topics are compacted (`retention`) and how much disk a record takes
(`bytesOnDisk`). schemas/README.md describes how that was measured.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from confluent_kafka import KafkaException
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.settings import Settings
from bus.standard import KINDS

DAY = 24 * 60 * 60 * 1000
SECONDS = 30.0
SCHOOL_DAYS = 180
KEPT = ("cleanup.policy", "min.compaction.lag.ms", "retention.ms")
TIERED = ("remote.storage.enable", "local.retention.ms")


@dataclass(frozen=True, slots=True)
class DistrictSize:
    """The size of a district.

    If staff or enrollments is 0, the number is estimated from the number of students.

    changes: the share of records, 0 to 1, that change on one school day.
    """

    students: int
    staff: int = 0
    enrollments: int = 0
    attendance_a_day: int = 0
    changes: float = 0.01

    def records(self) -> dict[str, int]:
        """Return how many active records of each kind the district has."""
        enrollments = self.enrollments or 8 * self.students
        return {
            "student": self.students,
            "demographics": self.students,
            "guardian": self.students // 2,
            "staff": self.staff or self.students // 20,
            "class": enrollments // 26,
            "enrollment": enrollments,
        }


@dataclass(frozen=True, slots=True)
class Topic:
    """The disk space that a topic takes, in bytes.

    kept:       how long it keeps history, in words.
    records:    the number of records on the first day.
    a_year:     the number of changes in a school year.
    bytes_each: the size of one record, without replicas.
    first:      the size after the first day, with all replicas.
    later:      the size once Kafka deletes as much as arrives, with all replicas.
    tiered:     whether the topic uses tiered storage.
    """

    name: str
    kept: str
    records: int
    a_year: int
    bytes_each: int
    first: int
    later: int
    tiered: bool


def wanted(settings: Settings, name: str) -> dict[str, str]:
    """Return the Kafka settings of a topic that `[retention]` asks for."""
    config = topics.config(settings, name)
    tiered = settings.retention.tiered and config["cleanup.policy"] == "delete"
    if tiered:
        config |= {
            "remote.storage.enable": "true",
            "local.retention.ms": str(settings.retention.local_days * DAY),
        }
    return config


def plan(settings: Settings, district: DistrictSize, replication: int) -> list[Topic]:
    """Return the disk space that each topic of records takes in such a district."""
    rules, found = settings.retention, []
    for kind, number in district.records().items():
        size = KINDS[kind].bytes_on_disk
        a_year = int(number * district.changes * SCHOOL_DAYS)
        kept = int(a_year * rules.history_days / 365)
        first = number * size * replication
        found.append(
            Topic(
                topics.topic(settings, kind),
                f"{rules.history_days} days *",
                number,
                a_year,
                size,
                first,
                first + kept * size * replication,
                False,
            )
        )
    a_year = district.attendance_a_day * SCHOOL_DAYS
    if a_year:
        size = KINDS["attendance"].bytes_on_disk
        days = rules.local_days if rules.tiered else rules.attendance_days
        later = int(a_year * min(rules.attendance_days, days) / 365) * size * replication
        found.append(
            Topic(
                topics.topic(settings, "attendance"),
                f"{rules.attendance_days} days"
                + (f", {rules.local_days} on the brokers" if rules.tiered else ""),
                0,
                a_year,
                size,
                0,
                later,
                rules.tiered,
            )
        )
    return found


def apply(settings: Settings, *, allow_loss: bool) -> dict[str, dict[str, tuple[str, str]]]:
    """Change the settings of the existing topics to match `[retention]`.

    Returns the changes by topic and setting, each with its old and its new value. Raises `Stop` if
    the change would delete history now and `allow_loss` is False, and also if the cluster refuses
    the settings. Raises `RetryLater` if Kafka does not answer.
    """
    admin = AdminClient(client_settings(settings))
    try:
        existing = admin.list_topics(timeout=SECONDS).topics
        ours = [
            n for n in existing if n.startswith(f"{settings.topic_prefix}.") and _known(settings, n)
        ]
        now = _configs(admin, ours)
        changes = {name: _changes(now[name], wanted(settings, name)) for name in ours}
        losing = sorted(name for name, what in changes.items() if _loses(what))
        if losing and not allow_loss:
            raise Stop(
                f"{', '.join(losing)} would keep less history than now, and Kafka would delete "
                "the rest; to allow that, add --allow-loss"
            )
        requested = [
            ConfigResource(
                ResourceType.TOPIC,
                name,
                incremental_configs=[
                    ConfigEntry(key, new, incremental_operation=AlterConfigOpType.SET)
                    for key, (_, new) in what.items()
                ],
            )
            for name, what in changes.items()
            if what
        ]
        for future in admin.incremental_alter_configs(requested).values() if requested else ():
            future.result(SECONDS)
    except KafkaException as error:
        name = error.args[0].name()
        if "AUTHORIZATION" in name or "INVALID" in name or "POLICY" in name:
            raise Stop(
                f"the cluster rejects these settings ({name}); this user needs ALTER_CONFIGS on "
                "the topics, and the brokers must support tiered storage if [retention] uses it"
            ) from None
        raise RetryLater(f"Kafka reports {name}; try again when Kafka is available") from None
    return {name: what for name, what in changes.items() if what}


def _known(settings: Settings, name: str) -> bool:
    """Return whether `apply` changes this topic: of records, of dead letters, or internal."""
    return (
        topics.kind_of(settings, name) in KINDS
        or name.startswith(f"{settings.topic_prefix}.deadletters.")
        or name in topics.internal(settings)
    )


def _configs(admin: Any, names: list[str]) -> dict[str, dict[str, str]]:
    requested = [ConfigResource(ResourceType.TOPIC, name) for name in names]
    found = admin.describe_configs(requested, request_timeout=SECONDS) if requested else {}
    return {
        resource.name: {entry.name: entry.value for entry in future.result().values()}
        for resource, future in found.items()
    }


def _changes(now: Mapping[str, str], new: Mapping[str, str]) -> dict[str, tuple[str, str]]:
    return {
        key: (now.get(key, ""), value)
        for key, value in new.items()
        if key in (*KEPT, *TIERED) and now.get(key, "") != value
    }


def _loses(changes: Mapping[str, tuple[str, str]]) -> bool:
    """Return whether Kafka would delete something that it keeps now."""
    before, after = changes.get("cleanup.policy", ("delete", ""))
    if "delete" in after and "delete" not in before:
        return True
    for key in ("min.compaction.lag.ms", "retention.ms"):
        before, after = changes.get(key, ("0", "0"))
        if _long(after) < _long(before):
            return True
    return False


def _long(milliseconds: str) -> float:
    """Return a retention time as a number. Kafka writes a negative one for no limit."""
    number = int(milliseconds or 0)
    return float("inf") if number < 0 else number
