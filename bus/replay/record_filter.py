"""From what was read to what is replayed of it, decoded."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from bus.consume.buffer import Buffer, position
from bus.consume.dependency_order import KindRecords
from bus.delivery import Position
from bus.kafka import topics
from bus.registry.subjects import schema_lookup
from bus.replay.latest import LatestStates
from bus.replay.replay_log import ReplayRequest
from bus.replay.selection import Selection
from bus.settings import Settings
from bus.standard import KINDS

if TYPE_CHECKING:
    from confluent_kafka import Message


@dataclass(slots=True)
class FilteredRecords:
    """What is to be replayed next.

    lots:        by kind. undecodable: (message, reason).
    ends:        for each partition up to where it was read.
    passed:      how many messages were read that are not replayed.
    """

    lots: dict[str, KindRecords] = field(default_factory=dict)
    undecodable: list[tuple[Message, str]] = field(default_factory=list)
    ends: dict[Position, int] = field(default_factory=dict)
    passed: int = 0

    def __len__(self) -> int:
        return sum(len(lot.messages) for lot in self.lots.values())


class RecordFilter:
    """Chooses by bytes first, so that most of what is not wanted need not be decoded."""

    def __init__(
        self,
        settings: Settings,
        about: ReplayRequest,
        selection: Selection,
        latest: LatestStates | None,
    ) -> None:
        self._kinds = {topics.topic(settings, kind): kind for kind in selection.kinds}
        self._intake = Buffer(self._kinds, schema_lookup(settings))
        self._selection = selection
        self._latest = latest
        # A place that begins empty is told neither of what is gone nor of what names that.
        self._standing_only = about.only_current and bool(about.into)
        self._gone: dict[str, set[int]] = {kind: set() for kind in selection.kinds}

    def kind(self, message: Message) -> str:
        """The kind of a message's record."""
        return self._kinds[message.topic() or ""]

    def take(self, messages: Sequence[Message], taken: FilteredRecords) -> None:
        """Add what is to be replayed of these; raises `RetryLater`, with nothing added, when the
        registry is asked and does not answer."""
        selection, latest = self._selection, self._latest
        wanted, ends = messages, None
        if selection.narrow or latest:
            wanted, ends = self._chosen(messages)
        read = self._intake.add(wanted)
        lots, undecodable = self._intake.decoded(self._intake.take())
        kept = 0
        for kind, lot in lots.items():
            if selection.narrow:
                lot = _only(lot, [selection.has(kind, record) for record in lot.records])
            if self._standing_only:
                lot = _only(lot, self._stand(kind, lot.records))
            into = taken.lots.setdefault(kind, KindRecords())
            into.records += lot.records
            into.messages += lot.messages
            kept += len(lot.messages)
        taken.undecodable += undecodable
        taken.ends |= read if ends is None else ends
        taken.passed += len(messages) - kept - len(undecodable)

    def _chosen(self, messages: Sequence[Message]) -> tuple[list[Message], dict[Position, int]]:
        """Those of these that may be replayed, before they are decoded; and up to where each
        partition was looked through."""
        selection, latest = self._selection, self._latest
        wanted: list[Message] = []
        ends: dict[Position, int] = {}
        for message in messages:
            place, offset = position(message), message.offset() or 0
            ends[place] = offset + 1
            key: Any = message.key()
            if selection.narrow and not selection.may_have(
                self._kinds[place.topic], key or b"", message.value() or b""
            ):
                continue
            if latest and not latest.is_latest(place, offset, key):
                continue
            wanted.append(message)
        return wanted, ends

    def _stand(self, kind: str, records: Sequence[Any]) -> list[bool]:
        """Of each, whether a place that begins empty is told of it; what it names came before."""
        gone = [record["status"] == "tobedeleted" for record in records]
        self._gone[kind].update(hash(record["sourcedId"]) for record in compress(records, gone))
        links = [
            (name, lost)
            for name in KINDS[kind].required
            for target in KINDS[kind].references[name]
            if (lost := self._gone.get(target))
        ]
        return [
            not ended
            and not any(
                isinstance(id_ := record[name], str) and hash(id_) in lost for name, lost in links
            )
            for record, ended in zip(records, gone, strict=True)
        ]


def _only(lot: KindRecords, chosen: Sequence[bool]) -> KindRecords:
    return KindRecords(list(compress(lot.records, chosen)), list(compress(lot.messages, chosen)))
