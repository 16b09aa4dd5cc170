"""Publish opt-outs that a person enters, and read all opt-outs.

They are records of the source `/optouts`. Extracts and the HTTP source publish others.
An id belongs to the source that published it (see `bus.ingest.ownership`), so a person ends here
only what was entered here.
"""

from __future__ import annotations

import json
import logging
import uuid
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from typing import TYPE_CHECKING

from filelock import FileLock, Timeout

from bus.errors import Never, RetryLater, Stop
from bus.ingest import ownership
from bus.kafka import topics
from bus.kafka.cloudevents import Change, header, now
from bus.kafka.reader import SILENCE, Reader
from bus.kafka.transactions import Publisher
from bus.registry import subjects
from bus.registry.codec import Decoder
from bus.settings import Settings
from bus.standard import Record
from bus.standard.json import from_json

if TYPE_CHECKING:
    from confluent_kafka import Message

log = logging.getLogger(__name__)

KIND = "optOut"
SOURCE = "/optouts"
"""The source of the opt-outs that a person enters."""
IDS = uuid.uuid5(uuid.NAMESPACE_URL, "urn:schoolbus:optout")
LOCK_SECONDS = 30.0
"""How long a command waits for another one that publishes opt-outs in the same home."""


@dataclass(frozen=True, slots=True)
class ActiveOptOut:
    """An opt-out that its source has not withdrawn.

    source: the source that published it: `/optouts`, `/oneroster-csv`, `/http/CLIENT`.
    """

    record: Record
    source: str


def add(
    settings: Settings,
    student: str,
    scope: str,
    *,
    decided_by: str,
    vendor: str | None = None,
    purpose: str | None = None,
    begin: str | None = None,
    end: str | None = None,
    decision: str = "deny",
) -> Record:
    """Publish an opt-out or a consent, and return its record.

    The id follows from the student and what the decision is about, so that the same one entered
    again corrects the earlier one. A consent and an opt-out are two records.

    begin, end: dates, `YYYY-MM-DD`.
    decision:   "deny" for an opt-out, "allow" for a consent.

    Raises `Invalid` when the fields do not fit the standard or each other. Raises `Stop` when a
    consent lacks what 34 CFR 99.30 requires, or when no source has published the student. Raises
    `RetryLater` when Kafka or the registry does not answer, or when the kind is not registered yet.
    """
    if decision == "allow" and (
        scope != "vendor" or begin is None or decided_by not in ("parent", "eligibleStudent")
    ):
        raise Stop(
            "a consent names the vendor or the agreement (--scope vendor --vendor NAME), who "
            "signed it (--decided-by parent or eligibleStudent), and the day of the signature "
            "(--from): 34 CFR 99.30"
        )
    about = json.dumps([student, scope, vendor, purpose, *(["allow"] * (decision == "allow"))])
    record = from_json(
        KIND,
        {
            "sourcedId": str(uuid.uuid5(IDS, about)),
            "status": "active",
            "dateLastModified": now(),
            "studentSourcedId": student,
            "scope": scope,
            "vendor": vendor,
            "purpose": purpose,
            "decidedBy": decided_by,
            "beginDate": begin,
            "endDate": end,
            "decision": decision,
        },
    )
    if begin and end and record["endDate"] < record["beginDate"]:
        raise Stop("it would end before it begins; correct --from or --until")
    if not _is_published(settings, student):
        raise Stop(
            "no source has published a student with this id, so the record would concern nobody; "
            "give the student's sourcedId"
        )
    _publish(settings, "recorded", record)
    return record


def announce_none(settings: Settings) -> None:
    """Record that opt-outs are entered here, even if there is none yet.

    Raises the errors of `bus.ingest.ownership.announce`.
    """
    ownership.announce(settings, SOURCE, [KIND])


def withdraw(settings: Settings, id_: str) -> Record:
    """Withdraw an opt-out and return its record.

    Raises `Stop` when there is no active opt-out with this id, or when it belongs to another
    source. Raises `RetryLater` as `add` does.
    """
    found = next((one for one in active(settings) if one.record["sourcedId"] == id_), None)
    if found is None:
        raise Stop(f"there is no active opt-out {id_}; `bus optouts list` shows the id of each")
    if found.source != SOURCE:
        raise Stop(
            f"the opt-out {id_} belongs to the source {found.source}; end it there, or that source "
            "would publish it again"
        )
    record: Record = {**found.record, "status": "tobedeleted"}
    _publish(settings, "withdrawn", record)
    return record


def active(settings: Settings, student: str = "") -> list[ActiveOptOut]:
    """Return the opt-outs of all sources that are not withdrawn, ordered by student and id.

    student: only those of this student. Only one partition is read then.

    An opt-out before its first day or after its last day is included. Raises `RetryLater` if Kafka
    or the registry does not answer.
    """
    decoder = Decoder(KIND, subjects.schema_lookup(settings))
    latest: dict[bytes, Message] = {}
    for message in _messages(settings, KIND, student):
        latest[message.key() or b""] = message
    found = []
    for message in latest.values():
        if message.value() is None:
            continue
        try:
            record = decoder.decode(message.value())
        except Never as reason:
            place = f"{message.topic()}/{message.partition()}/{message.offset()}"
            log.warning("skipped a message that is not an opt-out, at %s: %s", place, reason)
            continue
        if record["status"] == "active" and student in ("", record["studentSourcedId"]):
            found.append(ActiveOptOut(record, header(message, "ce_source") or ""))
    return sorted(found, key=lambda one: (one.record["studentSourcedId"], one.record["sourcedId"]))


def _is_published(settings: Settings, student: str) -> bool:
    """Return whether any source has published this student, withdrawn or not."""
    key, value = student.encode(), None
    for message in _messages(settings, "student", student):
        if message.key() == key:
            value = message.value()
    return value is not None


def _messages(settings: Settings, kind: str, student: str) -> Iterator[Message]:
    """Yield the messages of a kind that is placed by its student.

    student: only read the partition of this student. "" reads all partitions.
    """
    topic = topics.topic(settings, kind)
    failure = f"could not read the topic {topic}: Kafka says {{}}; try again when it is up"
    with Reader(settings, failure) as reader:
        places = reader.places([topic])
        if student and places:
            only = topics.partition_for(student, len(places))
            places = [place for place in places if place.partition == only]
        for batch in reader.batches(dict.fromkeys(places, 0), silence=SILENCE):
            yield from batch


def _publish(settings: Settings, change: Change, record: Record) -> None:
    ids = subjects.lookup(settings)
    subjects.require(settings, ids, [KIND])
    topics.ensure(settings, [topics.topic(settings, KIND)])
    with _held(settings):
        if KIND in ownership.announce(settings, SOURCE, {KIND}) and ownership.taken(
            settings, KIND, [record["sourcedId"]], other_than=SOURCE
        ):
            raise Stop(f"the id {record['sourcedId']}: {ownership.NOT_OURS}")
        time = now()
        publisher = Publisher(settings, SOURCE, ids, time=time)
        try:
            with publisher.transaction():
                publisher.publish_records(KIND, change, [record], time)
        finally:
            publisher.close()


@contextmanager
def _held(settings: Settings) -> Iterator[None]:
    """Hold the lock of this source, because a second publisher would stop the first one."""
    work = settings.home / "work" / settings.topic_prefix
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    try:
        held = FileLock(work / "optouts.lock").acquire(timeout=LOCK_SECONDS)
    except Timeout:
        raise RetryLater("another `bus optouts` is publishing; wait until it ends") from None
    with held:
        yield
