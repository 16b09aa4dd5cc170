"""Which records have been delivered: what a record may refer to.

A record is delivered after what it refers to. What this instance of a consumer delivers it knows
itself; what other instances deliver it reads from Kafka: a record that lies before the group's
committed offset is delivered, or is a dead letter. Those that this instance has left out it knows,
and does not take for delivered; those of other instances it cannot tell apart. Only keys are needed
for that, as a message's key is the record's id. What is known is kept in a file between two runs
(`bus.consume.delivered_file`), so a start reads only what the group has delivered since.

A kind that nobody carries is not waited for: its topic holds nothing, so no source publishes it (an
extract without courses, say). What names such a record is delivered as it is; a product that needs
the other record says so itself. When the kind comes later, what was delivered stays so, and from
then on records wait for it as for any other. A kind is published before what refers to it, so it is
enough to ask Kafka after a record was read that names one of a kind of which nothing is known.

A kind that one source does not carry may come from another. So a record whose source could not
check a reference (`bus.kafka.cloudevents`, `unchecked`) waits as long as any other, and then goes
on without it, though the reference is a required one.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bus.delivery import Position
from bus.errors import BusError
from bus.kafka import topics
from bus.kafka.reader import passages
from bus.settings import Settings
from bus.standard import KINDS, Record

if TYPE_CHECKING:
    from confluent_kafka import Message

    from bus.consume.delivered_file import DeliveredFile

LAYOUT = "1"
"""Of the file; to be raised when its tables change."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Missing:
    """What a record waits for; `required` when it cannot be told to a product without it."""

    kinds: tuple[str, ...]
    id: str
    required: bool

    def __str__(self) -> str:
        return f"{' or '.join(self.kinds)} {self.id}"


class DeliveredIndex:
    """The ids of the delivered records of the kinds that a product's records refer to.

    Ids are kept as their 64-bit hashes, some 60 bytes each: a million students take 60 MB.

    folder: where the file of the group is; None: nothing is kept between two runs.
    """

    def __init__(
        self, settings: Settings, kinds: Iterable[str], folder: Path | None = None
    ) -> None:
        taken = set(kinds)
        self._settings = settings
        self._checks: dict[str, list[tuple[str, tuple[str, ...], bool]]] = {}
        for kind in taken:
            found = []
            for field, targets in KINDS[kind].references.items():
                ours = tuple(target for target in targets if target in taken)
                # A field that may name several kinds is checked only when all of them are taken.
                if ours and len(ours) == len(targets):
                    found.append((field, ours, field in KINDS[kind].required))
            self._checks[kind] = found
        self.kinds = {t for found in self._checks.values() for _, ours, _ in found for t in ours}
        self._topics = {topics.topic(settings, kind): kind for kind in self.kinds}
        self._ids: dict[str, set[int]] = {kind: set() for kind in self.kinds}
        # Of those, what is only in the batch in hand: no state of it has been delivered before.
        self._in_hand: dict[str, set[int]] = {kind: set() for kind in self.kinds}
        self._read: dict[Position, int] = {}
        self._empty: set[str] = set()
        self._folder = folder if self.kinds else None
        self._file: DeliveredFile | None = None
        # Of this instance's partitions: where it began, and what it took and has not committed.
        self._begins: dict[Position, int] = {}
        self._taken: dict[Position, list[tuple[int, str]]] = {}

    # ---- what is carried -----------------------------------------------------------------------

    @property
    def unheard(self) -> set[str]:
        """The kinds of which no record is known."""
        return {kind for kind, ids in self._ids.items() if not ids}

    def note_carried(self, kinds: Collection[str]) -> None:
        """Of the unheard kinds, these have topics that hold something; the others have not."""
        self._empty = self.unheard - set(kinds)

    def names_uncarried(self, kind: str, records: Sequence[Record]) -> bool:
        """Whether one of these names a record of a kind that was not carried when it was asked."""
        fields = [field for field, targets, _ in self._checks[kind] if self._uncarried(targets)]
        return any(record[field] for field in fields for record in records)

    def _uncarried(self, targets: Iterable[str]) -> bool:
        return all(target in self._empty and not self._ids[target] for target in targets)

    # ---- what is delivered ---------------------------------------------------------------------

    def add(self, kind: str, id_: str) -> None:
        """Note that a record is in the batch in hand, and so is delivered with it."""
        if kind in self._ids and (key := hash(id_)) not in self._ids[kind]:
            self._ids[kind].add(key)
            self._in_hand[kind].add(key)

    def add_all(self, kind: str, records: Iterable[Record]) -> None:
        """Note all of these."""
        if kind in self._ids:
            new = {hash(record["sourcedId"]) for record in records} - self._ids[kind]
            self._ids[kind] |= new
            self._in_hand[kind] |= new

    def confirm(
        self, batch: Mapping[str, Sequence[Message]], left_out: Collection[Message] = ()
    ) -> None:
        """Note that the batch in hand is delivered, but for what was left out of it.

        batch:    its messages by kind, what was left out included.
        left_out: what the product has not got. What refers to such a record waits until `refresh`
                  comes to it: a dead letter lies before the committed offset as well, and holds
                  nothing back for long.
        """
        places = {_place(message) for message in left_out if message.topic() in self._topics}
        for kind in {self._topics[topic] for topic, _, _ in places}:
            told = {_key(m) for m in batch.get(kind, ()) if _place(m) not in places}
            lost = {_key(m) for m in left_out if self._topics.get(m.topic() or "") == kind}
            self._ids[kind] -= (lost & self._in_hand[kind]) - told
        self._forget_batch()

    def give_up(self) -> None:
        """Note that the batch in hand was given up: nothing of it counts as delivered."""
        for kind, new in self._in_hand.items():
            self._ids[kind] -= new
        self._forget_batch()

    def _forget_batch(self) -> None:
        for new in self._in_hand.values():
            new.clear()

    def missing(self, kind: str, record: Record, unchecked: Collection[str] = ()) -> Missing | None:
        """What a record waits for, or None; a required reference before an optional one.

        unchecked: fields whose references the source could not check: they count as optional.

        A withdrawn record waits for nothing: it takes away, and what it names may be gone already.
        """
        if record["status"] == "tobedeleted":
            return None
        ids = self._ids
        optional = None
        for field, targets, required in self._checks[kind]:
            value = record[field]
            if not value or self._uncarried(targets):
                continue
            for one in (value,) if isinstance(value, str) else value:
                key = hash(one)
                for target in targets:
                    if key in ids[target]:
                        break
                else:
                    if required and field not in unchecked:
                        return Missing(targets, one, required)
                    optional = optional or Missing(targets, one, False)
        return optional

    def complete(self, kind: str, records: Sequence[Record]) -> bool:
        """Whether all that these name is delivered; no says only that some of them may wait.

        Looks at each name once, so it takes much less time than asking `missing` for each record.
        """
        for field, targets, _ in self._checks[kind]:
            if self._uncarried(targets):
                continue
            values = [record[field] for record in records]
            named: set[str | None]
            if any(isinstance(value, list) for value in values[:1]):
                named = {one for value in values for one in value}
            else:
                named = set(values)
            for one in named - {None, ""}:
                if not any(hash(one) in self._ids[target] for target in targets):
                    return False
        return True

    def refresh(self, committed: Mapping[Position, int]) -> int:
        """Take in what lies before the group's committed offsets; how many ids were new."""
        stop = {
            place: offset
            for place, offset in committed.items()
            if place.topic in self._topics and offset > self._read.get(place, 0)
        }
        before = sum(map(len, self._ids.values()))
        if stop:
            added: dict[str, list[str]] = {topic: [] for topic in self._topics}
            for message in passages(self._settings, self._read, stop):
                id_ = _id(message)
                kind, key = self._topics[message.topic() or ""], hash(id_)
                self._ids[kind].add(key)
                self._in_hand[kind].discard(key)
                if self._file and (message.offset() or 0) >= self._file.reach.get(_at(message), 0):
                    added[message.topic() or ""].append(id_)
            self._read |= stop
            self._write(added, stop)
        return sum(map(len, self._ids.values())) - before

    # ---- what is kept between two runs ---------------------------------------------------------

    @property
    def is_recalled(self) -> bool:
        """Whether the file has been read, or there is none to read."""
        return self._folder is None or self._file is not None

    def recall(self, cluster: str, committed: Mapping[Position, int]) -> None:
        """Take in what an earlier run has kept, if the offsets that the group committed fit it.

        cluster: Kafka's cluster id. The ids of another cluster mean nothing.

        Raises `RetryLater` or `Stop` when the disk fails.
        """
        from bus.consume.delivered_file import DeliveredFile

        if self._folder is None:
            return
        mark = hashlib.sha256(json.dumps([LAYOUT, cluster, sorted(self._topics)]).encode())
        file = DeliveredFile(self._folder, mark.hexdigest(), sorted(self._topics))
        if not file.on_disk:
            file.close()
            self._folder = None
            return
        self._file = file
        if any(offset > committed.get(place, 0) for place, offset in file.reach.items()):
            file.empty()  # somebody has set the group's offsets back, or made a topic anew
        for topic, kind in self._topics.items():
            self._ids[kind] |= file.ids.pop(topic)
        self._read |= file.reach

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Note that this instance reads these partitions, each from an offset on."""
        for place, offset in begins.items():
            if place.topic in self._topics:
                self._begins[place], self._taken[place] = offset, []

    def revoked(self, places: Iterable[Position]) -> None:
        """Note that these partitions are another instance's now."""
        for place in places:
            self._begins.pop(place, None)
            self._taken.pop(place, None)

    def took(self, messages: Iterable[Message]) -> None:
        """Note what was read, to be kept when its offsets are committed."""
        for message in messages:
            if message.topic() not in self._topics:
                continue
            if (taken := self._taken.get(_at(message))) is not None:
                taken.append((message.offset() or 0, _id(message)))

    def committed(self, offsets: Mapping[Position, int]) -> None:
        """Keep what lies before offsets that the group has just committed."""
        added: dict[str, list[str]] = {}
        reached: dict[Position, int] = {}
        for place, offset in offsets.items():
            taken = self._taken.get(place)
            if not taken or taken[0][0] >= offset:
                continue
            ids = [id_ for at, id_ in taken if at < offset]
            self._taken[place] = [one for one in taken if one[0] >= offset]
            # Without a gap between what the file has and what was taken; else the next start reads.
            if self._file and self._begins[place] <= self._file.reach.get(place, 0) < offset:
                added.setdefault(place.topic, []).extend(ids)
                reached[place] = offset
        self._write(added, reached)

    def close(self) -> None:
        """Let go of the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, ids: Mapping[str, Sequence[str]], reached: Mapping[Position, int]) -> None:
        """Write to the file. If the disk fails, go on without it: it is only a cache."""
        if self._file is None or not reached:
            return
        try:
            self._file.write(ids, reached)
        except BusError as error:
            log.info("which records are delivered is kept in memory from now on: %s", error)
            self.close()
            self._folder = None


_Place = tuple[str, int, int]
"""A topic, the number of a partition, an offset."""


def _place(message: Message) -> _Place:
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def _at(message: Message) -> Position:
    return Position(message.topic() or "", message.partition() or 0)


def _id(message: Message) -> str:
    return (message.key() or b"").decode("utf-8", "replace")


def _key(message: Message) -> int:
    return hash(_id(message))
