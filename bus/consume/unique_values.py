"""Values that only one record may have at a product at a time, such as the login of a person.

A child comes back and gets a new record with the username of the old one. Two students swap their
usernames in one day. A username that was freed on Monday is another's on Friday. The two people may
be in two batches, in any order, and of two instances. A product that has a value under one id
refuses it under another (Canvas: instructure/canvas-lms, lib/sis/user_importer.rb).

So `bus.product.Product.unique` names such fields, and this is the rule:

* Nobody waits for anybody. A record whose value another one still has at the product is told at
  once, without the value (None): a student is there, with all classes, under another login.
* It is told again, with the value, as soon as the other one has been told something else.
* Who has a value keeps it. If the old one never leaves (the system gave one username to two), the
  new one stays without it, and gets it on the day on which the old one leaves.
* Within one batch no value goes from one record to another. What a batch sets free is told in a
  batch of its own that follows at once. So a swap takes two: both are told without, and then each
  with what the other had.

What is known of whom. Of its own partitions an instance knows what the product was told. Of the
others' it reads what lies before the group's committed offsets; there each record counts as having
what it wants. A value that no such record wants is free, as the record that had it was told again
before that was committed. Two instances that tell one value of two new records at the same moment
cannot know of each other: that is a fault of the system's, and the product refuses the second.

It is kept in a file (`bus.consume.claim_index`), a cache of the topics. A second instance on the
same machine cannot open the file, and keeps it in memory.

What a kill leaves, at each moment: before the file is written, the batch comes again and is
decided from the same; after it, the batch comes again and is told as before, as the file says what
the product has. What is told in a batch of its own moves no offset: a start looks for it again.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from confluent_kafka import KafkaException

from bus.consume.claim_index import FILE, ClaimIndex
from bus.consume.dependency_order import KindRecords
from bus.delivery import Position
from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.offsets import Offsets
from bus.kafka.reader import Reader, messages_at
from bus.product import Product
from bus.registry.codec import Decoder
from bus.settings import Settings

if TYPE_CHECKING:
    from collections.abc import Iterator

    import pyarrow
    from confluent_kafka import Message

LAYOUT = "1"
"""Of the file; to be raised when its tables or the rule change."""
TAKEN = 50_000
"""So many records are taken at once when the file is brought up to date."""
log = logging.getLogger(__name__)


class UniqueValues:
    """Decides which records are told without a value that another one has. Not for several threads.

    folder:  where what is known is kept.
    inquiry: asks Kafka what the group has committed.

    `decide`, `delivered`, `freed` and `told` may raise `RetryLater`, and can be called again.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path,
        inquiry: Offsets,
    ) -> None:
        self._settings = settings
        self._fields = dict(product.unique)
        self._kinds = list(self._fields)
        self._topics = {topics.topic(settings, kind): kind for kind in self._kinds}
        self._decoders = {kind: Decoder(kind, writer_schema) for kind in self._kinds}
        self._folder = folder
        self._inquiry = inquiry
        self._begins: dict[Position, int] = {}  # the partitions of this instance
        self._table: ClaimIndex | None = None
        self._pending = False  # a batch was decided and is not delivered yet

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Partitions, each with the offset before which the product was told all."""
        self._begins |= {p: at for p, at in begins.items() if p.topic in self._topics}

    def revoked(self, places: Iterable[Position]) -> None:
        """These partitions are another instance's now."""
        for place in places:
            self._begins.pop(place, None)

    @property
    def owing(self) -> bool:
        """Whether some record may have been told without its value."""
        if self._table is None:
            return bool(self._fields) and (self._folder / FILE).exists()
        return self._table.owing

    def decide(self, records: Mapping[str, KindRecords]) -> Mapping[str, KindRecords]:
        """The same records, without the values that others have at the product."""
        self._pending = False
        lots = {kind: records[kind] for kind in self._kinds if kind in records}
        if not any(lot.records for lot in lots.values()):
            return records
        arriving = [self._columns(kind, lot) for kind, lot in lots.items() if lot.records]
        claims = self._claims()
        claims.take(arriving)
        if claims.new_values() and self._catch_up(claims):
            claims.take(arriving)
        self._pending = True
        taken = claims.taken()
        if not taken:
            return records
        return {**records, **{kind: self._without(kind, lot, taken) for kind, lot in lots.items()}}

    def delivered(self, offsets: Mapping[Position, int], left_out: Collection[Message]) -> None:
        """The product has the batch that was decided last, but for these messages."""
        if self._table is None:
            return
        if self._pending:
            lost = {
                (self._kinds.index(self._topics[m.topic() or ""]), m.partition(), m.offset())
                for m in left_out
                if m.topic() in self._topics
            }
            self._table.write(self._numbered(offsets), lost)
            self._pending = False
        else:
            self._table.note(self._numbered(offsets))

    def freed(self) -> Mapping[str, KindRecords]:
        """Records that were told without their value, which nobody else has any more."""
        if not self.owing or not self._begins:
            return {}
        claims = self._claims()
        self._catch_up(claims)
        asked: dict[Position, list[int]] = {}
        for number, part, offset in claims.free():
            place = Position(topics.topic(self._settings, self._kinds[number]), part)
            if place in self._begins:
                asked.setdefault(place, []).append(offset)
        lots: dict[str, KindRecords] = {}
        for (place, _), message in sorted(messages_at(self._settings, asked).items()):
            kind = self._topics[place.topic]
            record = self._decoders[kind].decode(message.value())
            lots.setdefault(kind, KindRecords()).add(record, message)
        return {kind: lots[kind] for kind in self._kinds if kind in lots}

    def told(self, records: Mapping[str, KindRecords]) -> None:
        """The product has these, with their values."""
        if self._table is not None:
            self._table.note_told(
                [
                    (self._kinds.index(kind), message.partition() or 0, message.offset() or 0)
                    for kind, lot in records.items()
                    for message in lot.messages
                ]
            )

    def close(self) -> None:
        """Let go of the file."""
        if self._table is not None:
            self._table.close()
            self._table = None

    # ---- within --------------------------------------------------------------------------------

    def _numbered(self, offsets: Mapping[Position, int]) -> dict[tuple[int, int], int]:
        return {
            (self._kinds.index(self._topics[place.topic]), place.partition): at
            for place, at in offsets.items()
            if place.topic in self._topics
        }

    def _claims(self) -> ClaimIndex:
        """What is known, of this instance's partitions up to where it began with them."""
        if self._table is None:
            with self._asked():
                cluster = self._inquiry.cluster()
            self._table = ClaimIndex(self._folder, self._mark(cluster))
        self._read_up_to(self._table, self._begins)
        self._table.own({self._number(place) for place in self._begins})
        return self._table

    def _catch_up(self, claims: ClaimIndex) -> bool:
        """Learn what other instances have committed; whether that was anything new."""
        with self._asked():
            places = self._inquiry.partitions(self._topics)
            committed = self._inquiry.committed([p for p in places if p not in self._begins])
        return self._read_up_to(claims, committed)

    def _read_up_to(self, claims: ClaimIndex, goals: Mapping[Position, int]) -> bool:
        """Take in what lies before these offsets; whether that was anything new."""
        start = {place: claims.next(*self._number(place)) for place in goals}
        behind = {place: goal for place, goal in goals.items() if start[place] < goal}
        if not behind:
            return False
        failure = "could not read which values are taken: Kafka says {}"
        with Reader(self._settings, failure) as reader:
            kept: list[Message] = []
            for batch in reader.batches({place: start[place] for place in behind}, behind):
                kept += batch
                if len(kept) >= TAKEN:
                    self._absorb(claims, kept)
                    kept = []
            self._absorb(claims, kept)
        claims.note({self._number(place): goal for place, goal in behind.items()})
        return True

    @contextmanager
    def _asked(self) -> Iterator[None]:
        """What Kafka says to a question, in the bus's terms."""
        try:
            yield
        except KafkaException as error:
            raise RetryLater(
                f"could not ask what the group has delivered: Kafka says {error.args[0].name()}"
            ) from None

    def _number(self, place: Position) -> tuple[int, int]:
        return self._kinds.index(self._topics[place.topic]), place.partition

    def _absorb(self, claims: ClaimIndex, messages: Sequence[Message]) -> None:
        """Note what was read, which the product has been told."""
        tables = []
        for topic, kind in self._topics.items():
            mine = [message for message in messages if message.topic() == topic]
            values = [message.value() for message in mine]
            records, failures, whole = self._decoders[kind].decode_with_columns(values)
            if failures:
                bad = {index for index, _ in failures}
                mine = [message for index, message in enumerate(mine) if index not in bad]
            if mine:
                tables.append(self._columns(kind, KindRecords(records, mine, whole)))
        if tables:
            claims.take(tables)
            claims.write({}, set(), read=True)

    def _columns(self, kind: str, lot: KindRecords) -> pyarrow.Table:
        """What `ClaimIndex.take` needs of records."""
        import pyarrow

        number, messages = len(lot.messages), lot.messages
        names = ("sourcedId", "status", self._fields[kind])
        if lot.columns is not None:
            cells = [lot.columns.column(name) for name in names]
        else:
            cells = [
                pyarrow.array([r[name] for r in lot.records], pyarrow.string()) for name in names
            ]
        return pyarrow.table(
            {
                "kind": pyarrow.array([self._kinds.index(kind)] * number, pyarrow.int8()),
                "slot": pyarrow.array(range(number), pyarrow.int64()),
                "part": pyarrow.array([m.partition() for m in messages], pyarrow.int32()),
                "at_offset": pyarrow.array([m.offset() for m in messages], pyarrow.int64()),
                "at_time": pyarrow.array([m.timestamp()[1] for m in messages], pyarrow.int64()),
                "id": cells[0],
                "status": cells[1],
                "value": cells[2],
            }
        )

    def _without(self, kind: str, lot: KindRecords, taken: set[tuple[int, int]]) -> KindRecords:
        number, field = self._kinds.index(kind), self._fields[kind]
        slots = {slot for one, slot in taken if one == number}
        if not slots:
            return lot
        log.warning(
            "%s %s records are told without their %s, which another record has at the product",
            len(slots),
            kind,
            field,
        )
        records = [
            {**record, field: None} if slot in slots else record
            for slot, record in enumerate(lot.records)
        ]
        return KindRecords(records, lot.messages)

    def _mark(self, cluster: str) -> str:
        import duckdb

        names = [topics.topic(self._settings, kind) for kind in self._kinds]
        parts = (LAYOUT, cluster, duckdb.__version__, names, list(self._fields.values()))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
