"""An index of the records that have been delivered, to which other records may refer.

A record is delivered after the records to which it refers. An instance of a consumer knows what it
has delivered itself. What other instances have delivered it reads from Kafka: a record before the
group's committed offset is delivered, or is a dead letter. An instance knows its own dead letters
and does not count them as delivered. It cannot recognize the dead letters of other instances. Only
keys are read, because a message's key is the record's id. The index is kept in a file between two
runs (`bus.consume.delivered_file`), so a start reads only what the group has delivered since.

No record waits for a kind that is not published: its topic is empty, as after an extract without
courses. A record that refers to such a kind is delivered as it is. A product that needs the other
record must report that itself. When the kind is published later, delivered records stay delivered.
From then on records wait for that kind as for any other. A source publishes a kind before the kinds
that refer to it. So it is enough to ask Kafka after reading a record that refers to a kind without
known records.

A kind that one source does not publish may come from another source. So a record whose source could
not check a reference (`unchecked` in `bus.kafka.cloudevents`) waits as long as any other. Then it
is delivered without the other record, even if the reference is required.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from bus.consume.feed import Feed
from bus.delivery import Position
from bus.errors import BusError
from bus.kafka.reader import passages, position
from bus.settings import Settings
from bus.standard import Record

if TYPE_CHECKING:
    from confluent_kafka import Message

    from bus.consume.delivered_file import DeliveredFile

LAYOUT = "1"
"""The version of the file's layout. Raise it when the tables change."""
log = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Missing:
    """The record for which another record waits.

    kinds:    the kinds that it may have.
    id:       its sourcedId.
    required: whether the waiting record cannot be delivered without it.
    """

    kinds: tuple[str, ...]
    id: str
    required: bool

    def __str__(self) -> str:
        return f"{' or '.join(self.kinds)} {self.id}"


class DeliveredIndex:
    """The ids of the delivered records, of all kinds to which a product's records refer.

    Ids are kept as 64-bit hashes of about 60 bytes each: a million students take 60 MB.

    feed:   what the consumer reads.
    kinds:  the kinds to which its records refer.
    folder: where the group's file is; None: nothing is kept between two runs.
    """

    def __init__(self, settings: Settings, feed: Feed, folder: Path | None = None) -> None:
        taken = set(feed.topics.values())
        self._settings = settings
        self._checks: dict[str, list[tuple[str, tuple[str, ...], bool]]] = {}
        for kind in taken:
            found = []
            for field, targets in feed.targets(kind).items():
                ours = tuple(target for target in targets if target in taken)
                # A field that may refer to several kinds is checked only if the product takes all.
                if ours and len(ours) == len(targets):
                    found.append((field, ours, feed.required(kind, field)))
            self._checks[kind] = found
        self.kinds = {t for found in self._checks.values() for _, ours, _ in found for t in ours}
        self._topics = {topic: kind for topic, kind in feed.topics.items() if kind in self.kinds}
        self._ids: dict[str, set[int]] = {kind: set() for kind in self.kinds}
        # The ids that only the batch in hand has: no earlier state of them was delivered.
        self._in_hand: dict[str, set[int]] = {kind: set() for kind in self.kinds}
        self._read: dict[Position, int] = {}
        self._empty: set[str] = set()
        self._folder = folder if self.kinds else None
        self._file: DeliveredFile | None = None
        # Of this instance's partitions: the first offset, and what was read and not committed.
        self._begins: dict[Position, int] = {}
        self._taken: dict[Position, list[tuple[int, str]]] = {}

    # ---- which kinds are published -------------------------------------------------------------

    @property
    def unknown_kinds(self) -> set[str]:
        """The kinds without a known record."""
        return {kind for kind, ids in self._ids.items() if not ids}

    def note_published(self, kinds: Collection[str]) -> None:
        """Remember which of the `unknown_kinds` are published. All others of them are not.

        kinds: the kinds whose topics are not empty.
        """
        self._empty = self.unknown_kinds - set(kinds)

    def refers_to_unpublished(self, kind: str, records: Sequence[Record]) -> bool:
        """Return whether a record refers to a kind that `note_published` found not published."""
        fields = [
            field for field, targets, _ in self._checks[kind] if self._are_unpublished(targets)
        ]
        return any(record[field] for field in fields for record in records)

    def _are_unpublished(self, targets: Iterable[str]) -> bool:
        """Return whether none of these kinds is published."""
        return all(target in self._empty and not self._ids[target] for target in targets)

    # ---- which records are delivered -----------------------------------------------------------

    def add(self, kind: str, id_: str) -> None:
        """Remember that a record is in the batch in hand, and so is delivered with it."""
        if kind in self._ids and (key := hash(id_)) not in self._ids[kind]:
            self._ids[kind].add(key)
            self._in_hand[kind].add(key)

    def add_all(self, kind: str, records: Iterable[Record]) -> None:
        """Remember that these records are in the batch in hand."""
        if kind in self._ids:
            new = {hash(record["sourcedId"]) for record in records} - self._ids[kind]
            self._ids[kind] |= new
            self._in_hand[kind] |= new

    def confirm(
        self, batch: Mapping[str, Sequence[Message]], left_out: Collection[Message] = ()
    ) -> None:
        """Remember that the batch in hand is delivered, except for what was left out of it.

        batch:    the messages of the batch by kind, including those that were left out.
        left_out: the messages that the product has not got. Records that refer to one of them wait
                  until `refresh` reads past it. A dead letter also lies before the committed
                  offset, so this does not take long.
        """
        places = {_place(message) for message in left_out if message.topic() in self._topics}
        for kind in {self._topics[topic] for topic, _, _ in places}:
            delivered = {_key(m) for m in batch.get(kind, ()) if _place(m) not in places}
            lost = {_key(m) for m in left_out if self._topics.get(m.topic() or "") == kind}
            self._ids[kind] -= (lost & self._in_hand[kind]) - delivered
        self._forget_batch()

    def give_up(self) -> None:
        """Remember that the batch in hand was given up: none of its records counts as delivered."""
        for kind, new in self._in_hand.items():
            self._ids[kind] -= new
        self._forget_batch()

    def _forget_batch(self) -> None:
        """Forget which ids only the batch in hand has."""
        for new in self._in_hand.values():
            new.clear()

    def missing(self, kind: str, record: Record, unchecked: Collection[str] = ()) -> Missing | None:
        """Return the record for which this record waits, or None.

        A required reference comes before an optional one. A withdrawn record waits for nothing,
        because the records to which it refers may be withdrawn already.

        unchecked: fields whose references the source could not check. They count as optional.
        """
        if record["status"] == "tobedeleted":
            return None
        ids = self._ids
        optional = None
        for field, targets, required in self._checks[kind]:
            value = record[field]
            if not value or self._are_unpublished(targets):
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
        """Return whether all records to which these refer are delivered.

        False only means that some of the records may have to wait. This looks up each id once, so
        it takes much less time than a call of `missing` for each record.
        """
        for field, targets, _ in self._checks[kind]:
            if self._are_unpublished(targets):
                continue
            # It is None only under an agreement, if an older schema lacks the field.
            values = [value for record in records if (value := record[field]) is not None]
            named: set[str]
            if any(isinstance(value, list) for value in values[:1]):
                named = {one for value in values for one in value}
            else:
                named = set(values)
            for one in named - {""}:
                if not any(hash(one) in self._ids[target] for target in targets):
                    return False
        return True

    def refresh(self, committed: Mapping[Position, int]) -> int:
        """Add the messages before the group's committed offsets. Return how many ids were new."""
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
                if self._file and (message.offset() or 0) >= self._file.reach.get(
                    position(message), 0
                ):
                    added[message.topic() or ""].append(id_)
            self._read |= stop
            self._write(added, stop)
        return sum(map(len, self._ids.values())) - before

    # ---- what is kept between two runs ---------------------------------------------------------

    @property
    def is_recalled(self) -> bool:
        """Whether the file has been read, or there is no file to read."""
        return self._folder is None or self._file is not None

    def recall(self, cluster: str, committed: Mapping[Position, int]) -> None:
        """Read the file of an earlier run, if it fits the offsets that the group has committed.

        cluster: Kafka's cluster id. A file of another cluster is not used.

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
            file.empty()  # the group's offsets were set back, or a topic was created again
        for topic, kind in self._topics.items():
            self._ids[kind] |= file.ids.pop(topic)
        self._read |= file.reach

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Remember that this instance reads these partitions, each from this offset on."""
        for place, offset in begins.items():
            if place.topic in self._topics:
                self._begins[place], self._taken[place] = offset, []

    def revoked(self, places: Iterable[Position]) -> None:
        """Remember that another instance has these partitions now."""
        for place in places:
            self._begins.pop(place, None)
            self._taken.pop(place, None)

    def took(self, batch: Mapping[str, Sequence[Message]]) -> None:
        """Keep the ids of a batch, by kind, until its offsets are committed."""
        if self._file is None:
            return
        for kind in self.kinds & batch.keys():
            for message in batch[kind]:
                if (taken := self._taken.get(position(message))) is not None:
                    taken.append((message.offset() or 0, _id(message)))

    def committed(self, offsets: Mapping[Position, int]) -> None:
        """Write the ids before offsets that the group has just committed."""
        added: dict[str, list[str]] = {}
        reached: dict[Position, int] = {}
        for place, offset in offsets.items():
            taken = self._taken.get(place)
            if not taken or taken[0][0] >= offset:
                continue
            ids = [id_ for at, id_ in taken if at < offset]
            self._taken[place] = [one for one in taken if one[0] >= offset]
            # Only without a gap after what the file has. With a gap, the next start reads it.
            if self._file and self._begins[place] <= self._file.reach.get(place, 0) < offset:
                added.setdefault(place.topic, []).extend(ids)
                reached[place] = offset
        self._write(added, reached)

    def close(self) -> None:
        """Close the file."""
        if self._file is not None:
            self._file.close()
            self._file = None

    def _write(self, ids: Mapping[str, Sequence[str]], reached: Mapping[Position, int]) -> None:
        """Write to the file. If the disk fails, go on without the file: it is only a cache."""
        if self._file is None or not reached:
            return
        try:
            self._file.write(ids, reached)
        except BusError as error:
            log.info("the index of delivered records is kept in memory from now on: %s", error)
            self.close()
            self._folder = None


_Place = tuple[str, int, int]
"""A topic, the number of a partition, an offset."""


def _place(message: Message) -> _Place:
    """Return where a message is."""
    return message.topic() or "", message.partition() or 0, message.offset() or 0


def _id(message: Message) -> str:
    """Return the id of a message's record."""
    return (message.key() or b"").decode("utf-8", "replace")


def _key(message: Message) -> int:
    """Return the hash of the id of a message's record."""
    return hash(_id(message))
