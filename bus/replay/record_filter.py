"""Selects the messages that a replay delivers, and decodes them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from itertools import compress
from typing import TYPE_CHECKING, Any

from bus.consume.buffer import Buffer
from bus.consume.dependency_order import KindRecords
from bus.consume.feed import Feed
from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.reader import position
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
    """The records to deliver next.

    records:     by kind.
    undecodable: (message, reason) for each message that cannot be decoded.
    ends:        for each partition, the offset up to which it was read.
    passed:      how many messages were read and not selected.
    """

    records: dict[str, KindRecords] = field(default_factory=dict)
    undecodable: list[tuple[Message, str]] = field(default_factory=list)
    ends: dict[Position, int] = field(default_factory=dict)
    passed: int = 0

    def __len__(self) -> int:
        return sum(len(group.messages) for group in self.records.values())


class RecordFilter:
    """Filters messages by their bytes first, so that most unselected ones are not decoded."""

    def __init__(
        self,
        settings: Settings,
        about: ReplayRequest,
        selection: Selection,
        latest: LatestStates | None,
    ) -> None:
        self._kinds = {topics.topic(settings, kind): kind for kind in selection.kinds}
        self._intake = Buffer(Feed("replay", self._kinds), schema_lookup(settings))
        self._selection = selection
        self._latest = latest
        # A new place gets neither withdrawn records nor records that refer to them.
        self._active_only = about.only_current and bool(about.into)
        self._withdrawn: dict[str, set[int]] = {kind: set() for kind in selection.kinds}

    def kind(self, message: Message) -> str:
        """Return the kind of a message's record."""
        return self._kinds[message.topic() or ""]

    def take(self, messages: Sequence[Message], taken: FilteredRecords) -> None:
        """Add the records of the selected messages to `taken`.

        Raises `RetryLater` when the registry does not answer; then nothing is added.
        """
        selection, latest = self._selection, self._latest
        wanted, ends = messages, None
        if selection.narrow or latest:
            wanted, ends = self._chosen(messages)
        read = self._intake.add(wanted)
        decoded, undecodable = self._intake.decoded(self._intake.take())
        kept = 0
        for kind, group in decoded.items():
            if selection.narrow:
                group = _only(group, [selection.has(kind, record) for record in group.records])
            if self._active_only:
                group = _only(group, self._kept(kind, group.records))
            into = taken.records.setdefault(kind, KindRecords())
            into.records += group.records
            into.messages += group.messages
            kept += len(group.messages)
        taken.undecodable += undecodable
        taken.ends |= read if ends is None else ends
        taken.passed += len(messages) - kept - len(undecodable)

    def _chosen(self, messages: Sequence[Message]) -> tuple[list[Message], dict[Position, int]]:
        """Return the messages that may be selected, before they are decoded.

        Also returns, for each partition, the offset up to which its messages were filtered.
        """
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

    def _kept(self, kind: str, records: Sequence[Any]) -> list[bool]:
        """Return for each record whether a new place gets it. References must come first."""
        withdrawn = [record["status"] == "tobedeleted" for record in records]
        self._withdrawn[kind].update(
            hash(record["sourcedId"]) for record in compress(records, withdrawn)
        )
        links = [
            (name, ids)
            for name in KINDS[kind].required
            for target in KINDS[kind].references[name]
            if (ids := self._withdrawn.get(target))
        ]
        return [
            not ended
            and not any(
                isinstance(id_ := record[name], str) and hash(id_) in ids for name, ids in links
            )
            for record, ended in zip(records, withdrawn, strict=True)
        ]


def _only(group: KindRecords, chosen: Sequence[bool]) -> KindRecords:
    return KindRecords(
        list(compress(group.records, chosen)), list(compress(group.messages, chosen))
    )
