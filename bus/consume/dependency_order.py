"""Orders what a consumer has read: referenced records first, one owner's records in order.

A record waits until the records to which it refers are delivered. While a record of a student
waits, later records of that student wait behind it. Only records of a lower level do not: a
student's own record does not wait behind an enrollment, which may be waiting for that very record.

A record that has waited too long is delivered without an optional reference, or without one that
its source could not check. Without a required reference it becomes a dead letter. Neither happens
before everything is delivered that was in the topics when the record came, however long that takes.
"""

from __future__ import annotations

import math
from collections import deque
from collections.abc import Callable, Iterable, Mapping, Set
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from bus.consume.delivered_index import DeliveredIndex
from bus.delivery import Position
from bus.kafka.cloudevents import unchecked
from bus.kafka.reader import position
from bus.standard import KINDS, Record
from bus.standard.fault_codes import FaultCode, Reason

if TYPE_CHECKING:
    import pyarrow
    from confluent_kafka import Message


@dataclass(slots=True)
class KindRecords:
    """Records of one kind and their messages, in two lists of the same length.

    columns: the same records as columns, if these are available; else None.
    """

    records: list[Any] = field(default_factory=list)
    messages: list[Message] = field(default_factory=list)
    columns: pyarrow.RecordBatch | None = None

    def add(self, record: Record, message: Message) -> None:
        """Append one record and its message."""
        self.columns = None
        self.records.append(record)
        self.messages.append(message)


@dataclass(frozen=True, slots=True)
class _Waiting:
    """A record that waits.

    since: when it came, by the monotonic clock.
    """

    kind: str
    record: Record
    message: Message
    since: float

    @property
    def level(self) -> int:
        """The level of its kind."""
        return KINDS[self.kind].level


class DependencyOrder:
    """Decides which records wait and which may be delivered. Not thread-safe.

    hold_seconds: how long a record waits at least before it is given up.
    owner:        returns for a kind the field whose value keeps records in order.
    """

    def __init__(
        self,
        delivered: DeliveredIndex,
        hold_seconds: float,
        owner: Callable[[str], str] = lambda kind: KINDS[kind].owner,
    ) -> None:
        self._delivered = delivered
        self._owner = owner
        self._hold_seconds = hold_seconds
        self._queues: dict[str, deque[_Waiting]] = {}

    def __len__(self) -> int:
        return sum(len(queue) for queue in self._queues.values())

    def take(
        self,
        by_kind: Mapping[str, KindRecords],
        clock: float,
        delivered_up_to: Callable[[int], float] = lambda _: math.inf,
    ) -> tuple[dict[str, KindRecords], list[tuple[Message, str]]]:
        """Return the records that may be delivered now, and those that have waited too long.

        by_kind:         the new records, by kind in dependency order.
        clock:           the time of a monotonic clock, in seconds.
        delivered_up_to: for a level, a moment of that clock. All records of lower levels that were
                         in the topics at that moment have been delivered since.

        Returns the records that may be delivered, by kind in dependency order. Each kind's records
        of one owner are in the order of the topics. Also returns (message, reason) for each dead
        letter.
        """
        ready: dict[str, KindRecords] = {}
        for kind in KINDS:
            if kind in by_kind:
                ready[kind] = self._admit(kind, by_kind[kind], clock)
        given_up: list[tuple[Message, str]] = []
        while self._queues and self._release(ready, given_up, clock, delivered_up_to):
            pass
        return {kind: ready[kind] for kind in KINDS if kind in ready}, given_up

    def _admit(self, kind: str, kind_records: KindRecords, clock: float) -> KindRecords:
        """Return the new records of one kind that may be delivered. The others wait."""
        if not self._queues and self._delivered.complete(kind, kind_records.records):
            self._delivered.add_all(kind, kind_records.records)
            return kind_records
        owner, level = self._owner(kind), KINDS[kind].level
        queues, missing, add = self._queues, self._delivered.missing, self._delivered.add
        is_indexed = kind in self._delivered.kinds
        go = KindRecords()
        for record, message in zip(kind_records.records, kind_records.messages, strict=True):
            ahead = queues.get(record[owner], ()) if queues else ()
            if any(one.level <= level for one in ahead) or missing(kind, record):
                waiting = _Waiting(kind, record, message, clock)
                queues.setdefault(record[owner], deque()).append(waiting)
                continue
            if is_indexed:
                add(kind, record["sourcedId"])
            go.records.append(record)
            go.messages.append(message)
        return go

    def _release(
        self,
        ready: dict[str, KindRecords],
        given_up: list[tuple[Message, str]],
        clock: float,
        delivered_up_to: Callable[[int], float],
    ) -> bool:
        """Move out the records that need not wait any more. Return whether there were any."""
        went = False
        for owner, queue in list(self._queues.items()):
            kept: deque[_Waiting] = deque()
            for one in queue:
                if any(ahead.level <= one.level for ahead in kept):
                    kept.append(one)
                    continue
                lacks = self._delivered.missing(one.kind, one.record)
                if lacks and lacks.required:
                    lacks = self._delivered.missing(one.kind, one.record, unchecked(one.message))
                early = clock - one.since < self._hold_seconds
                if lacks and (early or one.since > delivered_up_to(one.level)):
                    kept.append(one)
                    continue
                went = True
                if lacks and lacks.required:
                    given_up.append((one.message, self._reason(one, str(lacks))))
                    continue
                ready.setdefault(one.kind, KindRecords()).add(one.record, one.message)
                self._delivered.add(one.kind, one.record["sourcedId"])
            if kept:
                self._queues[owner] = kept
            else:
                del self._queues[owner]
        return went

    def _reason(self, waiting: _Waiting, lacks: str) -> Reason:
        """Return the reason for a dead letter."""
        text = (
            f"{waiting.kind} {waiting.record['sourcedId']} refers to {lacks}, which was not "
            f"delivered within {self._hold_seconds:g} s; publish it, then retry this record"
        )
        return Reason(text, FaultCode.REFERENCE_NOT_DELIVERED)

    def first_offsets(self) -> dict[Position, int]:
        """Return for each partition the offset of the first record that waits.

        No commit goes past these offsets.
        """
        first: dict[Position, int] = {}
        for queue in self._queues.values():
            for waiting in queue:
                message = waiting.message
                place = position(message)
                offset = message.offset() or 0
                first[place] = min(offset, first.get(place, offset))
        return first

    def clear(self) -> None:
        """Forget all records that wait."""
        self._queues.clear()

    def drop(self, partitions: Set[Position]) -> None:
        """Forget the waiting records of partitions that another instance has now."""
        for owner, queue in list(self._queues.items()):
            kept = [w for w in queue if position(w.message) not in partitions]
            if kept:
                self._queues[owner] = deque(kept)
            else:
                del self._queues[owner]

    @property
    def kinds(self) -> Iterable[str]:
        """The kinds of the records that wait."""
        return {waiting.kind for queue in self._queues.values() for waiting in queue}
