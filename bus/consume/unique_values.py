"""Values that only one record may have at a product at a time, such as a person's login.

Three examples of how a value moves from one record to another: A child comes back and gets a new
record with the username of the old one. Two students swap their usernames on one day. A username
that is free on Monday goes to another student on Friday.

The two records may be in different batches, in any order, and different instances may read them.
Some products refuse a value under one id as long as they have it under another (Canvas:
instructure/canvas-lms, lib/sis/user_importer.rb).

So `bus.product.Product.unique` names such fields, and these are the rules:

* No record waits for a unique value. (It may wait for a record that it refers to; that is
  `bus.consume.dependency_order`.) If another record still has the value at the product, the record
  is delivered at once, without the value (None). In Canvas, for example, the student then exists
  with all classes under another login.
* The record is delivered again, with the value, as soon as the other record no longer has it at the
  product.
* A record that has a value keeps it until the SIS changes its value or withdraws it. If the SIS
  gives one username to two people, the second record stays without it until then.
* Within one batch, no value moves from one record to another. The values that a batch sets free are
  delivered in a separate batch right after it. So a swap takes two batches: both records are
  delivered without their values, and then each with the other's value.

A record claims a value if its newest state has it. This is what an instance knows:

* For its own partitions, it knows exactly which record has which value at the product.
* From the partitions of other instances, it reads the records before the group's committed offsets.
  Each of these records counts as having the value that it claims. If no record claims a value, the
  value is free: an offset is committed only after the records before it are delivered, so the
  product already has the newer state of the record that had the value.

If the SIS gives one value to two new records, that is an error in the SIS. Two instances may
deliver both at the same moment, because neither instance can know of the other's record. The
product then refuses the second one.

A file keeps the claims (`bus.consume.claim_index`). It is a cache of the topics. A second instance
on the same machine cannot open the file, and keeps the claims in memory.

What happens after a kill depends on when it comes:

* Before the file is written: the batch is read again and decided in the same way.
* After the file is written, before the offsets are committed: the batch is read again and delivered
  as before, because the file says what the product has.
* During a batch of freed values: such a batch moves no offset, so Kafka does not bring it again.
  Therefore each start looks for freed values.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.consume.claim_index import FILE, ClaimIndex
from bus.consume.dependency_order import KindRecords
from bus.delivery import Position
from bus.kafka import topics
from bus.kafka.offsets import Offsets, retryable
from bus.kafka.reader import Reader, messages_at
from bus.product import Product
from bus.registry.codec import Decoder
from bus.settings import Settings

if TYPE_CHECKING:
    import pyarrow
    from confluent_kafka import Message

LAYOUT = "1"
"""The version of the file. Raise it when its tables or the rules change."""
WRITE_RECORDS = 50_000
"""The number of records that are written to the file at once when it is brought up to date."""
log = logging.getLogger(__name__)


class UniqueValues:
    """Decides which records are delivered without a value that another record has.

    Not thread-safe.

    folder:         where the claims are kept.
    offsets_client: asks Kafka what the group has committed.

    `decide`, `delivered`, `freed` and `delivered_with_values` may raise `RetryLater`, and can be
    called again.
    """

    def __init__(
        self,
        settings: Settings,
        product: Product,
        writer_schema: Callable[[int], dict[str, Any]],
        folder: Path,
        offsets_client: Offsets,
    ) -> None:
        self._settings = settings
        self._fields = dict(product.unique)
        self._kinds = list(self._fields)
        self._topics = {topics.topic(settings, kind): kind for kind in self._kinds}
        self._decoders = {kind: Decoder(kind, writer_schema) for kind in self._kinds}
        self._folder = folder
        self._offsets_client = offsets_client
        self._begins: dict[Position, int] = {}  # for each own partition, see `assigned`
        self._table: ClaimIndex | None = None
        self._pending = False  # a batch was decided and is not delivered yet

    def assigned(self, begins: Mapping[Position, int]) -> None:
        """Remember partitions, each with the offset before which the product has everything."""
        self._begins |= {p: at for p, at in begins.items() if p.topic in self._topics}

    def revoked(self, places: Iterable[Position]) -> None:
        """Remember that another instance has these partitions now."""
        for place in places:
            self._begins.pop(place, None)

    @property
    def lacks_values(self) -> bool:
        """Whether the product may have some record without its value."""
        if self._table is None:
            return bool(self._fields) and (self._folder / FILE).exists()
        return self._table.lacks_values

    def decide(self, records: Mapping[str, KindRecords]) -> Mapping[str, KindRecords]:
        """Return the same records, with None for unique values that other records have.

        Only the fields of `Product.unique` change.
        """
        self._pending = False
        by_kind = {kind: records[kind] for kind in self._kinds if kind in records}
        if not any(kind_records.records for kind_records in by_kind.values()):
            return records
        arriving = [
            self._columns(kind, kind_records)
            for kind, kind_records in by_kind.items()
            if kind_records.records
        ]
        claims = self._claims()
        claims.take(arriving)
        if claims.new_values() and self._catch_up(claims):
            claims.take(arriving)
        self._pending = True
        taken = claims.taken()
        if not taken:
            return records
        return {
            **records,
            **{
                kind: self._without(kind, kind_records, taken)
                for kind, kind_records in by_kind.items()
            },
        }

    def delivered(self, offsets: Mapping[Position, int], left_out: Collection[Message]) -> None:
        """Remember that the product has the last decided batch, except for these messages."""
        if self._table is None:
            return
        if self._pending:
            undelivered = {
                (self._kinds.index(self._topics[m.topic() or ""]), m.partition(), m.offset())
                for m in left_out
                if m.topic() in self._topics
            }
            self._table.write(self._numbered(offsets), undelivered)
            self._pending = False
        else:
            self._table.note(self._numbered(offsets))

    def freed(self) -> Mapping[str, KindRecords]:
        """Return records that were delivered without a value that no other record has any more."""
        if not self.lacks_values or not self._begins:
            return {}
        claims = self._claims()
        self._catch_up(claims)
        asked: dict[Position, list[int]] = {}
        for number, part, offset in claims.free():
            place = Position(topics.topic(self._settings, self._kinds[number]), part)
            if place in self._begins:
                asked.setdefault(place, []).append(offset)
        by_kind: dict[str, KindRecords] = {}
        for (place, _), message in sorted(messages_at(self._settings, asked).items()):
            kind = self._topics[place.topic]
            record = self._decoders[kind].decode(message.value())
            by_kind.setdefault(kind, KindRecords()).add(record, message)
        return {kind: by_kind[kind] for kind in self._kinds if kind in by_kind}

    def delivered_with_values(self, records: Mapping[str, KindRecords]) -> None:
        """Remember that the product has these records with their values."""
        if self._table is not None:
            self._table.note_delivered(
                [
                    (self._kinds.index(kind), message.partition() or 0, message.offset() or 0)
                    for kind, kind_records in records.items()
                    for message in kind_records.messages
                ]
            )

    def close(self) -> None:
        """Close the file."""
        if self._table is not None:
            self._table.close()
            self._table = None

    # ---- within --------------------------------------------------------------------------------

    def _numbered(self, offsets: Mapping[Position, int]) -> dict[tuple[int, int], int]:
        """Return the offsets by the number of the kind and the partition."""
        return {
            (self._kinds.index(self._topics[place.topic]), place.partition): at
            for place, at in offsets.items()
            if place.topic in self._topics
        }

    def _claims(self) -> ClaimIndex:
        """Return the claims, up to date with what the product has of this instance's partitions."""
        if self._table is None:
            with retryable():
                cluster = self._offsets_client.cluster()
            self._table = ClaimIndex(self._folder, self._mark(cluster))
        self._read_up_to(self._table, self._begins)
        self._table.own({self._number(place) for place in self._begins})
        return self._table

    def _catch_up(self, claims: ClaimIndex) -> bool:
        """Read what other instances have committed. Return whether anything was new."""
        with retryable():
            places = self._offsets_client.partitions(self._topics)
            committed = self._offsets_client.committed([p for p in places if p not in self._begins])
        return self._read_up_to(claims, committed)

    def _read_up_to(self, claims: ClaimIndex, goals: Mapping[Position, int]) -> bool:
        """Read all messages before these offsets. Return whether anything was new."""
        start = {place: claims.next(*self._number(place)) for place in goals}
        behind = {place: goal for place, goal in goals.items() if start[place] < goal}
        if not behind:
            return False
        failure = "could not read which unique values are in use: Kafka says {}"
        with Reader(self._settings, failure) as reader:
            kept: list[Message] = []
            for batch in reader.batches({place: start[place] for place in behind}, behind):
                kept += batch
                if len(kept) >= WRITE_RECORDS:
                    self._absorb(claims, kept)
                    kept = []
            self._absorb(claims, kept)
        claims.note({self._number(place): goal for place, goal in behind.items()})
        return True

    def _number(self, place: Position) -> tuple[int, int]:
        """Return the number of the kind and the partition."""
        return self._kinds.index(self._topics[place.topic]), place.partition

    def _absorb(self, claims: ClaimIndex, messages: Sequence[Message]) -> None:
        """Write messages that the product already has, as they were read from the topics."""
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

    def _columns(self, kind: str, kind_records: KindRecords) -> pyarrow.Table:
        """Return the columns of these records that `ClaimIndex.take` needs."""
        import pyarrow

        number, messages = len(kind_records.messages), kind_records.messages
        names = ("sourcedId", "status", self._fields[kind])
        if kind_records.columns is not None:
            cells = [kind_records.columns.column(name) for name in names]
        else:
            cells = [
                pyarrow.array([r[name] for r in kind_records.records], pyarrow.string())
                for name in names
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

    def _without(
        self, kind: str, kind_records: KindRecords, taken: set[tuple[int, int]]
    ) -> KindRecords:
        """Return these records, with None for unique values that other records have.

        taken: the kind and the index of each record whose value another record has.
        """
        number, field = self._kinds.index(kind), self._fields[kind]
        slots = {slot for one, slot in taken if one == number}
        if not slots:
            return kind_records
        log.warning(
            "%s %s records are delivered without their %s: "
            "other records have these values at the product",
            len(slots),
            kind,
            field,
        )
        records = [
            {**record, field: None} if slot in slots else record
            for slot, record in enumerate(kind_records.records)
        ]
        return KindRecords(records, kind_records.messages)

    def _mark(self, cluster: str) -> str:
        """Return the mark of the file: a hash of all that its content depends on."""
        import duckdb

        names = [topics.topic(self._settings, kind) for kind in self._kinds]
        parts = (LAYOUT, cluster, duckdb.__version__, names, list(self._fields.values()))
        return hashlib.sha256(json.dumps(parts).encode()).hexdigest()
