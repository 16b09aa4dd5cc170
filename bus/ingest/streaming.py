"""Publish a stream of changes: check, encode and publish each batch together with its position."""

from __future__ import annotations

import threading
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from typing import Any

from bus.ingest import ownership, position, quarantine
from bus.ingest.pipeline import valid_name
from bus.kafka import topics
from bus.kafka.cloudevents import Change, now
from bus.kafka.transactions import Publisher
from bus.registry import subjects
from bus.settings import Settings
from bus.source import ChangeBatch, Fault
from bus.standard import KINDS, Record
from bus.standard.fault_codes import FaultCode
from bus.standard.json import ID_LENGTH, Invalid, from_json

Follow = Callable[[str, Callable[[], bool]], Iterator[ChangeBatch]]
"""A function from a position and `stopped` to changes, see `bus.source.Streamed`."""


RECORDED: Change = "recorded"
WITHDRAWN: Change = "withdrawn"


@dataclass(slots=True)
class StreamReport:
    """The result of a stream: how many records were published by kind, and how many quarantined."""

    source: str
    records: Counter[str] = field(default_factory=Counter)
    quarantined: int = 0


def stream(
    settings: Settings, source: str, follow: Follow, stopping: threading.Event
) -> StreamReport:
    """Publish what a source streams until `stopping` is set or the stream ends.

    source: the source's name, without a leading slash.

    Each `ChangeBatch` is one Kafka transaction with its records, its faults and its position. After
    a kill at any moment, the next start continues from the last published position.

    Raises `Stop` when a person must act. Raises `RetryLater` when Kafka or the registry does not
    answer, or when a record is of a kind that is not registered yet; start it again then.
    """
    valid_name(source)
    ids = subjects.lookup(settings)
    records = [topics.topic(settings, kind) for kind in ids]
    topics.ensure(settings, [*records, topics.quarantine(settings)])
    report = StreamReport(source)
    announced: set[str] = set()
    publisher = Publisher(settings, f"/{source}", ids, time=now())
    try:
        begin = position.read(settings, f"/{source}")
        for some in follow(begin, stopping.is_set):
            if new := some.records.keys() - announced:
                subjects.require(settings, ids, sorted(new))
                ownership.announce(settings, f"/{source}", new)
                announced |= new
            _publish(publisher, settings, some, report)
            if stopping.is_set():
                break
    finally:
        publisher.close()
    return report


def _publish(
    publisher: Publisher, settings: Settings, changes: ChangeBatch, report: StreamReport
) -> None:
    faults: list[Fault] = []
    records: dict[str, list[Record]] = {}
    for kind in KINDS:
        for document in changes.records.get(kind, ()):
            try:
                records.setdefault(kind, []).append(from_json(kind, document))
            except Invalid as wrong:
                faults.append(_fault(kind, document, wrong))
    source = f"/{report.source}"
    time = now()
    with publisher.transaction():
        for kind, some in records.items():
            for withdrawn, change in ((False, RECORDED), (True, WITHDRAWN)):
                chosen = [r for r in some if (r["status"] == "tobedeleted") is withdrawn]
                publisher.publish_records(kind, change, chosen, time)
        quarantine.publish(publisher, settings, source, faults, time)
        position.publish(publisher, settings, source, changes.position)
    report.records.update({kind: len(some) for kind, some in records.items()})
    report.quarantined += len(faults)


def _fault(kind: str, document: Mapping[str, Any], wrong: Invalid) -> Fault:
    """Return the fault of a record that does not fit the standard. It has the id, never a value."""
    id_ = document.get("sourcedId")
    field_ = wrong.problems[0].field if wrong.problems else ""
    return Fault(
        file=f"{kind} {id_}" if isinstance(id_, str) and len(id_) <= ID_LENGTH else kind,
        line=0,
        column=field_ if field_ in KINDS[kind].fields else "",
        value_class="",
        reason=str(wrong),
        kind=kind,
        code=FaultCode.INVALID_RECORD,
    )
