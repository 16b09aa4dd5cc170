"""Reports what a replay would do. A dry run reads and translates all and delivers nothing."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime
from typing import Any

from bus.consume.translation import translate
from bus.product import Product
from bus.replay import history
from bus.replay.engine import needs_latest, order_of
from bus.replay.latest import LatestStates
from bus.replay.record_filter import FilteredRecords, RecordFilter
from bus.replay.replay_log import ReplayRequest
from bus.replay.selection import Selection
from bus.replay.window import Completeness, completeness
from bus.settings import Settings
from bus.standard import KINDS
from bus.standard.masking import value_class


@dataclass(slots=True)
class DryRun:
    """What a replay would do.

    read:      how many messages the window has, by kind.
    chosen:    how many of them would be delivered, by kind.
    students:  how many students the delivered records are about.
    first, last: when the first and the last of them were published (Kafka's timestamp, UTC).
    not_delivered: how many records would not be delivered, because the translation leaves them out
               or because they cannot be decoded or translated.
    seconds:   the least time that the replay takes: by `--rate`, or as reading and translating
               took now. The time that the product needs is not included.
    sample:    one row of each table as it would be delivered, with the class of each value in
               place of the value.
    history:   whether the topics still have every change of the window.
    """

    read: Counter[str] = field(default_factory=Counter)
    chosen: Counter[str] = field(default_factory=Counter)
    students: int = 0
    first: datetime | None = None
    last: datetime | None = None
    not_delivered: int = 0
    seconds: float = 0.0
    sample: dict[str, dict[str, str]] = field(default_factory=dict)
    history: Completeness = field(default_factory=Completeness)


def plan(
    settings: Settings,
    product: Product,
    about: ReplayRequest,
    selection: Selection,
    progress: Callable[[int], None] = lambda _: None,
) -> DryRun:
    """Do all that the replay would do, without delivering, and return what it would deliver.

    progress: is called with the number of messages that have been read.

    Raises `RetryLater` when Kafka or the registry does not answer.
    """
    whole = completeness(settings, about.window, about.since, selection.kinds)
    found, students = DryRun(history=whole), set[int]()
    began = time.monotonic()
    latest = LatestStates(settings, about.window) if needs_latest(product, about) else None
    try:
        if latest and not about.into:
            latest.follow()
        record_filter = RecordFilter(settings, about, selection, latest)
        for messages in history.read(settings, about.window, order_of(about)):
            found.read.update(record_filter.kind(message) for message in messages)
            taken = FilteredRecords()
            record_filter.take(messages, taken)
            _count(product, taken, found, students)
            progress(found.read.total())
    finally:
        if latest:
            latest.close()
    found.students = len(students)
    spent = time.monotonic() - began
    found.seconds = max(spent, found.chosen.total() / about.rate if about.rate else 0.0)
    return found


def _count(product: Product, taken: FilteredRecords, found: DryRun, students: set[int]) -> None:
    parts, delivered, _ = translate(product, taken.records)
    found.chosen += delivered
    found.not_delivered += len(taken) - delivered.total() + len(taken.undecodable)
    for kind, group in taken.records.items():
        if student := KINDS[kind].student:
            about = (student.of(record) for record in group.records)
            students.update(hash(id_) for id_ in about if id_ is not None)
        for message in (group.messages[0], group.messages[-1]) if group.messages else ():
            at = datetime.fromtimestamp(message.timestamp()[1] / 1000, UTC)
            found.first = min(found.first or at, at)
            found.last = max(found.last or at, at)
    for part in parts:
        if part.table.name not in found.sample:
            rows = part.rows[0] if isinstance(part.rows[0], list) else [part.rows[0]]
            if rows:
                found.sample[part.table.name] = classes(rows[0])


def classes(row: Mapping[str, Any]) -> dict[str, str]:
    """Return a row with the class of each value in place of the value."""
    return {name: value_class(value) for name, value in row.items()}
