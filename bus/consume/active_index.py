"""An index of the active records of each group of equivalent records, as the product has them.

There is one DuckDB file for each consumer group, topic and partition:
`BUS_HOME/standing/GROUP/TOPIC-N.duckdb`. Kafka is the store of record and each file is a cache.
Equivalent records have the same owner and so the same partition. So only the instance that has the
partition uses its file. It opens the file with the first batch that needs it, and closes it when
the partition is revoked. Another instance on the same machine then opens the same file. An instance
on another machine builds a file from the topic.

    about   mark (the cluster, the rule, the layout), next: all messages before this offset are
            in the file
    member  one row for each active record: owner, key, number, id, at_offset, first_day, last_day

`key` is a hash of the fields in which equivalent records agree. `number` is a hash of the record's
id, `owner` a hash of its owner's id. All are DuckDB's `hash`, which is the same in every process of
one version of DuckDB. The mark includes that version. A hash has 64 bits: among eight million keys,
two are the same with a probability of one in half a million.

Equivalent records have one owner, so only the owners of a batch are looked up. Of these, only
owners that may be in a file at all are looked up (`_Seen`): on a first day hardly any. A large
batch is written while the next batch is read.

A file is rebuilt from the beginning of the partition in these cases:

* It is missing or damaged.
* It has another mark.
* It is ahead of the offset at which the consumer goes on. Somebody has set the group's offsets back
  and wants everything delivered again.

When a file is behind, only the messages in between are read. `bus.consume.cache_database` says what
happens to a file that cannot be written.

The file may also hold records from after `next`. They were delivered while a record before them
still waits for what it refers to. After a restart they are read again, and the newest state counts.
"""

from __future__ import annotations

import hashlib
import json
import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import Future, ThreadPoolExecutor
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

from bus.consume.cache_database import CacheDatabase
from bus.consume.dependency_order import KindRecords
from bus.delivery import Position
from bus.errors import RetryLater, Stop
from bus.kafka.reader import Reader
from bus.product import Equivalent
from bus.registry.codec import Decoder
from bus.settings import Settings
from bus.standard import KINDS
from bus.standard.meaning import meaning

if TYPE_CHECKING:
    from datetime import date

    import numpy
    import pyarrow
    from confluent_kafka import Message

LAYOUT = "2"
"""The version of the files. Raise it when their tables or the rule of `bus.product.Equivalent`
change."""
TAKEN = 50_000
"""The number of records that are written at once when a file is built or brought up to date."""
BESIDE = 5_000
"""A batch of more records than this is written in the background."""
log = logging.getLogger(__name__)


class Member(NamedTuple):
    """An active record of a group of equivalent records."""

    key: int
    number: int
    id: str
    part: int
    at_offset: int
    first_day: date | None
    last_day: date | None


class Arrival(NamedTuple):
    """A record of the batch in hand.

    slot:      its index among the records of its kind; below 0 if it is not delivered.
    is_active: whether it is active.
    """

    slot: int
    member: Member
    is_active: bool


class ActiveIndex:
    """The active records of one kind, for the partitions of this instance.

    folder:        where the files are; None: in memory, for as long as the object lives.
    writer_schema: see `bus.registry.codec.Decoder`.

    Methods raise `RetryLater` when Kafka, the registry or the disk does not answer.
    """

    def __init__(
        self,
        settings: Settings,
        kind: str,
        topic: str,
        rule: Equivalent,
        folder: Path | None,
        writer_schema: Callable[[int], dict[str, Any]],
    ) -> None:
        self._settings = settings
        self._kind = kind
        self._topic = topic
        self._rule = rule
        self._decoder = Decoder(kind, writer_schema)
        self._next: dict[int, int] = {}
        self._written: dict[int, int] = {}
        self._parts: list[int] = []  # of the batch in hand
        self._unwritten: set[int] = set()  # the partitions of the batch that are not written
        self._delivered = False  # the product has the batch
        self._number = 0  # how many records it has
        self._unique = False  # no record is in it twice
        self._apart = False  # none shares its key with another, or with a member
        self._touched: set[int] = set()  # the partitions with members that have its keys or ids
        self._seen = _Seen()
        self._thread = ThreadPoolExecutor(1, "standing")
        self._writing: Future[None] | None = None
        self._files = CacheDatabase(folder, f"the index of equivalent {kind} records")
        self._con = self._files.con

    def close(self) -> None:
        """Close all files, and write how far each goes."""
        try:
            self.release(list(self._next))
        finally:
            self._thread.shutdown()
            self._files.close()

    # ---- partitions ----------------------------------------------------------------------------

    def reach(self, goals: Mapping[int, int]) -> None:
        """Open the files of these partitions and read each up to its offset.

        A file that is open and goes further already is left as it is.
        """
        self._finish_writing()
        cluster = ""
        behind = {part: goal for part, goal in goals.items() if self._next.get(part, -1) < goal}
        if not behind:
            return
        failure = f"could not read the active {self._kind} records: Kafka says {{}}"
        with Reader(self._settings, failure) as reader, self._files.faults():
            for part, goal in behind.items():
                if part not in self._next:
                    cluster = cluster or reader.cluster()
                    self._open(part, goal, self._mark(cluster, part))
            start = {part: self._next[part] for part, goal in behind.items()}
            short = {part for part, goal in behind.items() if start[part] < goal}
            kept: list[Message] = []
            for batch in reader.batches(
                {Position(self._topic, part): start[part] for part in short},
                {Position(self._topic, part): behind[part] for part in short},
            ):
                kept += batch
                if len(kept) >= TAKEN:
                    self._absorb(kept)
                    kept = []
            if kept:
                self._absorb(kept)
            for part in short:
                self._write_next(part, behind[part])

    def note(self, reached: Mapping[int, int]) -> None:
        """Remember that everything before these offsets was delivered and is in the open files."""
        for part, offset in reached.items():
            if part in self._next:
                self._next[part] = max(offset, self._next[part])

    def release(self, parts: Iterable[int]) -> None:
        """Close the files of these partitions: another instance has them now."""
        try:
            self._finish_writing()
        except (RetryLater, Stop) as error:
            log.info(
                "an index file is behind; the next instance reads on from the topic: %s", error
            )
        for part in parts:
            if part not in self._next:
                continue
            behind = self._delivered and part in self._unwritten
            if self._next[part] != self._written[part] and not behind:
                try:
                    self._write_next(part, self._next[part])
                except self._files.error as error:
                    log.info(
                        "the offset of an index file was not written: %s", type(error).__name__
                    )
            self._files.detach(f"p{part}")
            del self._next[part], self._written[part]
            self._unwritten.discard(part)

    # ---- the batch in hand ---------------------------------------------------------------------

    def take(self, arriving: Sequence[pyarrow.Table]) -> None:
        """Load a batch of one or more tables (see `columns`). Nothing is written yet."""
        self._finish_writing()
        with self._files.faults():
            self._load(arriving)
            self._unwritten, self._delivered = set(self._parts), False

    def shared(self, *, latest_only: bool) -> set[int]:
        """Return the keys of the batch for which no record can be judged alone.

        These are the keys that several records of the batch have, that a record outside of the
        batch has, and from or to which a record moves.

        latest_only: whether the files hold the batch already, as in a replay of latest states. Then
                     keys are added for which the batch does not have a record's newest state.
        """
        moved = (
            "SELECT n.key FROM news n JOIN touched t USING (number) WHERE t.key <> n.key "
            "UNION SELECT t.key FROM news n JOIN touched t USING (number) WHERE t.key <> n.key"
        )
        if latest_only:
            moved = (
                "SELECT n.key FROM news n JOIN touched t USING (number) "
                "WHERE t.at_offset <> n.at_offset OR t.key <> n.key OR NOT n.is_active "
                "UNION SELECT n.key FROM news n ANTI JOIN touched t USING (number) "
                "WHERE n.is_active"
            )
        if self._apart and not latest_only:
            return set()
        with self._files.faults():
            found = self._files.rows(
                "SELECT key FROM news GROUP BY key HAVING count(*) > 1 UNION "
                "SELECT n.key FROM news n JOIN touched t USING (key) WHERE t.number <> n.number "
                "UNION SELECT key FROM news WHERE number IN (SELECT number FROM news "
                f"GROUP BY number HAVING count(DISTINCT key) > 1) UNION {moved}"
            )
        return {key for (key,) in found}

    def members(self, keys: set[int]) -> list[Member]:
        """Return the active records of these keys."""
        with self._files.faults():
            self._wanted(keys)
            found = [
                row
                for part in self._parts
                for row in self._files.rows(
                    f"SELECT key, number, id, {part}, at_offset, first_day, last_day "
                    f"FROM p{part}.member SEMI JOIN wanted USING (key)"
                )
            ]
        return [Member(*row) for row in found]

    def arrivals(self, keys: set[int]) -> list[Arrival]:
        """Return the records of the batch that have these keys, in the order of their partition."""
        with self._files.faults():
            self._wanted(keys)
            found = self._files.rows(
                "SELECT slot, is_active, key, number, id, part, at_offset, first_day, last_day "
                "FROM news SEMI JOIN wanted USING (key) ORDER BY part, at_offset"
            )
        return [Arrival(slot, Member(*row), is_active) for slot, is_active, *row in found]

    def write(self, reached: Mapping[int, int]) -> None:
        """Write the batch in hand, which was delivered, and store these offsets.

        A large batch is written in the background. If that fails, the next call of a method writes
        the rest, and raises if that fails too.
        """
        if not self._delivered:
            self._delivered = True
            self._note_owners()
        self.note(reached)
        if self._number > BESIDE:
            self._writing = self._thread.submit(self._write_all)
        else:
            with self._files.faults():
                self._write_all()

    # ---- within --------------------------------------------------------------------------------

    def _write_all(self) -> None:
        """Write the partitions of the batch that are not written yet."""
        for part in sorted(self._unwritten & self._next.keys()):
            self._write(part, self._next[part])
            self._unwritten.discard(part)
        self._unwritten = set()

    def _note_owners(self) -> None:
        """Remember that the owners of the batch may be in the files from now on."""
        owners = self._con.execute("SELECT owner FROM news").fetchnumpy()
        self._seen.add(owners["owner"])

    def _finish_writing(self) -> None:
        """Wait until the last batch is written.

        If writing in the background failed, this writes the rest, and raises as a method does.
        """
        if self._writing is not None:
            failure = self._writing.exception()
            self._writing = None
            if failure is not None:
                log.info("the index of active records is written again: %s", type(failure).__name__)
        if self._unwritten and self._delivered:
            with self._files.faults():
                self._write_all()

    def _wanted(self, keys: set[int]) -> None:
        """Fill the table `wanted` with these keys."""
        self._con.execute("CREATE OR REPLACE TEMP TABLE wanted (key UBIGINT)")
        self._con.execute("INSERT INTO wanted SELECT unnest(?::UBIGINT[])", [list(keys)])

    def _load(self, arriving: Sequence[pyarrow.Table]) -> None:
        """Fill `news` with a batch, and `touched` with the members that have its keys or ids."""
        import numpy
        import pyarrow

        agree = ", ".join(f'CAST("{field}" AS VARCHAR)' for field in self._rule.fields)
        first, last = (
            f'CAST("{field}" AS DATE)' if field else "CAST(NULL AS DATE)"
            for field in (self._rule.first, self._rule.last)
        )
        self._con.execute(
            "CREATE OR REPLACE TEMP TABLE news (slot BIGINT, part INTEGER, at_offset BIGINT, "
            "id VARCHAR, owner UBIGINT, number UBIGINT, key UBIGINT, is_active BOOLEAN, "
            "first_day DATE, last_day DATE)"
        )
        for some in arriving:
            with self._files.given("arriving", some):
                self._con.execute(
                    "INSERT INTO news SELECT slot, part, at_offset, "
                    'CAST("sourcedId" AS VARCHAR) AS id, '
                    f'hash(part, CAST("{KINDS[self._kind].owner}" AS VARCHAR)), '
                    "hash(part, id) AS number, "
                    f"hash(part, {agree}) AS key, CAST(\"status\" AS VARCHAR) = 'active', "
                    f"{first}, {last} FROM arriving"
                )
        news = self._con.execute("SELECT part, owner, number, key FROM news").fetchnumpy()
        self._number = len(news["part"])
        self._parts = [int(p) for p in numpy.unique(news["part"]) if int(p) in self._next]
        self._unique = _all_differ(news["number"])
        self._con.execute(
            "CREATE OR REPLACE TEMP TABLE touched "
            "(part INTEGER, key UBIGINT, number UBIGINT, at_offset BIGINT)"
        )
        known = self._seen.among(news["owner"])
        if known.any():
            owners = pyarrow.table({"owner": numpy.unique(news["owner"][known])})
            self._touch(owners, {int(p) for p in numpy.unique(news["part"][known])})
        self._touched = {part for (part,) in self._files.rows("SELECT DISTINCT part FROM touched")}
        self._apart = self._unique and not self._touched and _all_differ(news["key"])

    def _touch(self, owners: pyarrow.Table, parts: set[int]) -> None:
        """Add to `touched` the members of these owners that have keys or ids of the batch."""
        with self._files.given("owners", owners):
            for part in sorted(parts & self._next.keys()):
                self._con.execute(
                    "CREATE OR REPLACE TEMP TABLE near AS SELECT key, number, at_offset "
                    f"FROM p{part}.member SEMI JOIN owners USING (owner)"
                )
                # Two joins take a third of the time of one condition with OR.
                self._con.execute(
                    f"INSERT INTO touched SELECT {part}, * FROM near SEMI JOIN news USING (number) "
                    f"UNION SELECT {part}, * FROM near SEMI JOIN news USING (key)"
                )

    def _write(self, part: int, next_offset: int) -> None:
        """Write the records of one partition in `news`: the newest state of each record counts."""
        columns = "owner, key, number, id, at_offset, first_day, last_day"
        source, member = f"FROM news n WHERE part = {part}", f"p{part}.member"
        with self._files.transaction():
            if part in self._touched or not self._unique:
                known = f"FROM touched t WHERE part = {part} AND t.number = n.number"
                self._con.execute(
                    f"CREATE OR REPLACE TEMP TABLE latest AS SELECT is_active, {columns} {source} "
                    f"AND NOT EXISTS (SELECT 1 {known} AND t.at_offset >= n.at_offset) "
                    "QUALIFY row_number() OVER (PARTITION BY number ORDER BY at_offset DESC) = 1"
                )
                self._con.execute(
                    f"DELETE FROM {member} WHERE number IN (SELECT number FROM latest n "
                    f"WHERE EXISTS (SELECT 1 {known}))"
                )
                source = "FROM latest WHERE true"
            self._con.execute(f"INSERT INTO {member} SELECT {columns} {source} AND is_active")
            self._con.execute(f"UPDATE p{part}.about SET next = ?", [next_offset])
        self._written[part] = next_offset

    def _write_next(self, part: int, offset: int) -> None:
        """Write the offset before which all messages of a partition are in its file."""
        self._con.execute(f"UPDATE p{part}.about SET next = ?", [offset])
        self._next[part] = self._written[part] = offset

    def _absorb(self, messages: Sequence[Message]) -> None:
        """Write messages that were read from the topic, which the product already has."""
        values = [message.value() for message in messages]
        records, failures, whole = self._decoder.decode_with_columns(values)
        if failures:  # those were delivered to no product
            bad = {index for index, _ in failures}
            messages = [message for index, message in enumerate(messages) if index not in bad]
        self._load([columns(self._rule, KindRecords(records, list(messages), whole))])
        ends = {message.partition() or 0: (message.offset() or 0) + 1 for message in messages}
        for part, end in ends.items():
            self._write(part, end)
            self._next[part] = end
        self._note_owners()

    # ---- files ---------------------------------------------------------------------------------

    def _mark(self, cluster: str, part: int) -> str:
        """Return the mark of a file: a hash of all that its content depends on."""
        about = KINDS[self._kind]
        rule = (list(self._rule.fields), self._rule.first, self._rule.last)
        parts = (LAYOUT, cluster, self._files.version, self._topic, part, rule)
        text = json.dumps([*parts, meaning(about.schema)], sort_keys=True)
        return hashlib.sha256(text.encode()).hexdigest()

    def _open(self, part: int, goal: int, mark: str) -> None:
        """Open the file of a partition, or an empty database in memory."""
        file = f"{self._topic}-{part}.duckdb"
        self._files.open(f"p{part}", file, lambda: self._is_usable(part, goal, mark))

    def _is_usable(self, part: int, goal: int, mark: str) -> bool:
        """Create the tables of a new file. Return whether it can be used.

        It must have this mark and not be ahead of `goal`.
        """
        name = f"p{part}"
        self._con.execute(f"CREATE TABLE IF NOT EXISTS {name}.about (mark VARCHAR, next BIGINT)")
        self._con.execute(
            f"CREATE TABLE IF NOT EXISTS {name}.member (owner UBIGINT, key UBIGINT, "
            "number UBIGINT, id VARCHAR, at_offset BIGINT, first_day DATE, last_day DATE)"
        )
        found = self._files.rows(f"SELECT mark, next FROM {name}.about")
        if not found:
            self._con.execute(f"INSERT INTO {name}.about VALUES (?, 0)", [mark])
            found = [(mark, 0)]
        if found[0][0] != mark or found[0][1] > goal:
            return False
        self._next[part] = self._written[part] = found[0][1]
        owners = self._con.execute(f"SELECT DISTINCT owner FROM {name}.member")
        self._seen.add(owners.fetchnumpy()["owner"])
        return True


class _Seen:
    """The owners that may be in the files. It never forgets one, and includes few others.

    It is a Bloom filter with two bits for each owner. With a million owners, it also includes one
    in a hundred of the others.
    """

    SIZE = 1 << 24

    def __init__(self) -> None:
        import numpy

        self._bits = numpy.zeros(self.SIZE, bool)

    def add(self, owners: numpy.ndarray) -> None:
        """Add these owners (64-bit hashes)."""
        for at in self._places(owners):
            self._bits[at] = True

    def among(self, owners: numpy.ndarray) -> numpy.ndarray:
        """Return for each of these owners whether it may have been added."""
        one, other = self._places(owners)
        found: numpy.ndarray = self._bits[one] & self._bits[other]
        return found

    def _places(self, owners: numpy.ndarray) -> tuple[numpy.ndarray, numpy.ndarray]:
        """Return the two bits of each owner."""
        return owners % self.SIZE, (owners >> 32) % self.SIZE


def _all_differ(hashes: numpy.ndarray) -> bool:
    """Return whether all hashes are different."""
    import numpy

    ordered = numpy.sort(hashes)
    return not (ordered[1:] == ordered[:-1]).any()


def columns(
    rule: Equivalent, kind_records: KindRecords, *, delivered: bool = True
) -> pyarrow.Table:
    """Return the columns of these records that `ActiveIndex.take` needs.

    delivered: whether the records are delivered. If not, their slot is -1.
    """
    import numpy
    import pyarrow

    number = len(kind_records.messages)
    slots = numpy.arange(number, dtype=numpy.int64) if delivered else numpy.full(number, -1)
    side = {
        "slot": pyarrow.array(slots, pyarrow.int64()),
        "part": pyarrow.array([m.partition() for m in kind_records.messages], pyarrow.int32()),
        "at_offset": pyarrow.array([m.offset() for m in kind_records.messages], pyarrow.int64()),
    }
    names = ("sourcedId", "status", *rule.fields, rule.first, rule.last)
    fields = dict.fromkeys(name for name in names if name)
    if kind_records.columns is not None:
        return pyarrow.table(side | {name: kind_records.columns.column(name) for name in fields})
    days = {rule.first, rule.last}
    values = {name: [record[name] for record in kind_records.records] for name in fields}
    types = {name: pyarrow.date32() if name in days else None for name in fields}
    return pyarrow.table(side | {name: pyarrow.array(values[name], types[name]) for name in fields})
