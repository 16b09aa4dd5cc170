"""What one source last published: a cache of the topics, on which an extract is compared.

Kafka is the store of record. This DuckDB file holds the latest state of each record that the source
has published, marked with the offsets for which it stands. It is brought up to date from the topics
before every use, so it may be stale (a kill between commit and cache), and is made anew from the
topics when it is missing, damaged, of another cluster or of another version of the standard.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from importlib.metadata import version
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb

from bus.delivery import Position
from bus.errors import Never
from bus.ingest import coercion, integrity
from bus.ingest.coercion import text_literal
from bus.ingest.columns import SCHEMA, columns, definition, fingerprint, quoted
from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import Reader
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS, Record

READ = 10_000
"""How many messages are read at once when the cache is brought up to date."""
TAKEN = 50_000
"""So many records are decoded at once."""


def cache_file(settings: Settings, source: str) -> Path:
    """Where the cache of a source lies: a name of its own for each source of each prefix."""
    name = quote(source.strip("/"), safe="")
    return settings.home / "published" / settings.topic_prefix / f"{name}.duckdb"


def attach(con: duckdb.DuckDBPyConnection, settings: Settings, source: str) -> None:
    """Attach the source's cache to a connection and bring it up to what the topics hold."""
    path = cache_file(settings, source)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    failure = "could not read what was last published: Kafka says {}; try again when it is up"
    with Reader(settings, failure) as reader:
        mark = _mark(reader.cluster())
        _open(con, path, mark)
        ends = reader.ends([topics.topic(settings, kind) for kind in KINDS])
        if not _fits(con, ends):
            con.execute(f"DETACH {SCHEMA}")
            _remove(path)
            _open(con, path, mark)
        _catch_up(con, settings, source, reader, ends)


def remember(con: duckdb.DuckDBPyConnection, settings: Settings, kinds: list[str]) -> None:
    """Take what has just been published (`change_KIND`, see `bus.ingest.diff`) into the cache.

    Called after the commit. The offsets are those of the topics' ends now: only this process
    publishes as this source, so all of it that lies before is in the cache.
    """
    ends = _ends(settings)
    con.execute("BEGIN")
    for kind in kinds:
        fields = ", ".join(quoted(name) for name in columns(kind))
        table = f"{SCHEMA}.{quoted(kind)}"
        change = quoted(f"change_{kind}")
        con.execute(
            f"DELETE FROM {table} WHERE sourcedId IN "
            f"(SELECT sourcedId FROM {change} WHERE _change <> 'created' OR _again)"
        )
        con.execute(
            f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'c')}, _raw "
            f"FROM {change} c WHERE NOT _moved"
        )
        con.execute(
            f"UPDATE {table} b SET _raw = r._raw FROM {quoted(f'record_{kind}')} r "
            "WHERE r.sourcedId = b.sourcedId AND r._raw IS DISTINCT FROM b._raw"
        )
    _set_positions(con, ends)
    con.execute("COMMIT")


def _ends(settings: Settings) -> dict[Position, int]:
    failure = (
        "all is published, but Kafka does not say up to where ({}); run it again when it is up: "
        "nothing is published twice"
    )
    with Reader(settings, failure) as reader:
        return reader.ends([topics.topic(settings, kind) for kind in KINDS])


def _mark(cluster: str) -> str:
    """What the cache stands for beside the offsets: cluster, standard, how hashes are made, and the
    rules by which rows were read and valid."""
    schemas = json.dumps({name: kind.schema for name, kind in KINDS.items()}, sort_keys=True)
    rules = [Path(module.__file__ or "").read_text("utf-8") for module in (coercion, integrity)]
    parts = (cluster, version("schoolbus"), duckdb.__version__, schemas, *rules)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()


def _open(con: duckdb.DuckDBPyConnection, path: Path, mark: str) -> None:
    try:
        con.execute(f"ATTACH {text_literal(str(path))} AS {SCHEMA}")
        con.execute(f"CREATE TABLE IF NOT EXISTS {SCHEMA}.about (mark VARCHAR)")
        found = con.execute(f"SELECT mark FROM {SCHEMA}.about").fetchall()
        if found in ([], [(mark,)]):
            if not found:
                _create(con, mark)
            return
        con.execute(f"DETACH {SCHEMA}")
    except duckdb.Error:
        logging.getLogger(__name__).debug("the cache of what was published is made anew")
        attached = con.execute("SELECT database_name FROM duckdb_databases()").fetchall()
        if (SCHEMA,) in attached:
            con.execute(f"DETACH {SCHEMA}")
    _remove(path)
    con.execute(f"ATTACH {text_literal(str(path))} AS {SCHEMA}")
    con.execute(f"CREATE TABLE {SCHEMA}.about (mark VARCHAR)")
    _create(con, mark)


def _create(con: duckdb.DuckDBPyConnection, mark: str) -> None:
    con.execute("BEGIN")
    for kind in KINDS:
        con.execute(
            f"CREATE TABLE {SCHEMA}.{quoted(kind)} "
            f"({definition(kind)}, _fingerprint UBIGINT, _raw UBIGINT)"
        )
    con.execute(
        f"CREATE TABLE {SCHEMA}.position (topic VARCHAR, partition INTEGER, next_offset BIGINT)"
    )
    # NULL: which faults are known is not, see `bus.ingest.quarantine.publish_new`
    con.execute(f"CREATE TABLE {SCHEMA}.quarantined AS SELECT NULL::VARCHAR AS id")
    con.execute(f"INSERT INTO {SCHEMA}.about VALUES (?)", [mark])
    con.execute("COMMIT")


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _positions(con: duckdb.DuckDBPyConnection) -> dict[Position, int]:
    rows = con.execute(f"SELECT topic, partition, next_offset FROM {SCHEMA}.position").fetchall()
    return {Position(topic, partition): offset for topic, partition, offset in rows}


def _set_positions(con: duckdb.DuckDBPyConnection, ends: dict[Position, int]) -> None:
    con.execute(f"DELETE FROM {SCHEMA}.position")
    if ends:
        con.executemany(
            f"INSERT INTO {SCHEMA}.position VALUES (?, ?, ?)",
            [[topic, partition, offset] for (topic, partition), offset in ends.items()],
        )


def _fits(con: duckdb.DuckDBPyConnection, ends: dict[Position, int]) -> bool:
    """Whether the topics still reach as far as the cache; not so after a topic was made anew."""
    return all(offset <= ends.get(part, -1) for part, offset in _positions(con).items())


@dataclass(slots=True)
class _Lot:
    """Messages of one kind, side by side: keys, Kafka's times (ms), offsets, values."""

    ids: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)


def _catch_up(
    con: duckdb.DuckDBPyConnection,
    settings: Settings,
    source: str,
    reader: Reader,
    ends: dict[Position, int],
) -> None:
    positions = _positions(con)
    lookup = schema_lookup(settings)
    decoders = {kind: Decoder(kind, lookup) for kind in KINDS}
    read: set[str] = set()
    for lots in _published(settings, source, reader, ends, positions):
        for kind, lot in lots.items():
            read.add(kind)
            _read(con, cache_file(settings, source), decoders[kind], kind, lot)
    con.execute("BEGIN")
    for kind in read:
        _upsert(con, kind)
    _set_positions(con, positions)
    con.execute("COMMIT")


def _published(
    settings: Settings,
    source: str,
    reader: Reader,
    ends: dict[Position, int],
    positions: dict[Position, int],
) -> Iterator[dict[str, _Lot]]:
    """What the source has published since `positions` (moved on to the end), some at a time."""
    kinds = {topics.topic(settings, kind): kind for kind in KINDS}
    start = {place: positions.get(place, 0) for place in ends}
    start = {place: at for place, at in start.items() if at < ends[place]}
    lots: defaultdict[str, _Lot] = defaultdict(_Lot)
    for messages in reader.batches(start, at_once=READ):
        for message in messages:
            if header(message, "ce_source") != source:
                continue
            lot = lots[kinds[message.topic() or ""]]
            lot.ids.append((message.key() or b"").decode("utf-8", "replace"))
            lot.times.append(message.timestamp()[1])
            lot.offsets.append(message.offset() or 0)
            lot.values.append(message.value())
        if sum(len(lot.ids) for lot in lots.values()) >= TAKEN:
            yield lots
            lots.clear()
    positions.update(reader.reached)
    yield lots


def _table(kind: str) -> str:
    return quoted(f"read_{kind}")


def _upsert(con: duckdb.DuckDBPyConnection, kind: str) -> None:
    """Let the latest of each record that was read stand in the cache."""
    fields = ", ".join(f"r.{quoted(name)}" for name in columns(kind))
    table = f"{SCHEMA}.{quoted(kind)}"
    con.execute(
        f"CREATE OR REPLACE TEMP TABLE latest AS SELECT rowid AS at, _id FROM {_table(kind)} "
        # A record that moved to another owner is withdrawn in one partition and stands in
        # another, both in one millisecond: what stands is the later.
        "QUALIFY row_number() OVER (PARTITION BY _id "
        "ORDER BY _at DESC, status = 'active' DESC, _offset DESC) = 1"
    )
    con.execute(f"DELETE FROM {table} WHERE sourcedId IN (SELECT _id FROM latest)")
    con.execute(
        f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'r')}, NULL "
        f"FROM {_table(kind)} r JOIN latest ON r.rowid = latest.at WHERE r.sourcedId IS NOT NULL"
    )
    con.execute(f"DROP TABLE latest; DROP TABLE {_table(kind)}")


def _read(
    con: duckdb.DuckDBPyConnection, cache: Path, decoder: Decoder, kind: str, lot: _Lot
) -> None:
    """Add the records of a lot to what was read, with the key of each, its time and its offset; a
    row of nothing else for what cannot be decoded."""
    con.execute(
        f"CREATE TEMP TABLE IF NOT EXISTS {_table(kind)} "
        f"({definition(kind)}, _id VARCHAR, _at BIGINT, _offset BIGINT)"
    )
    found = decoder.columns(lot.values)
    if found is None:
        _read_one_by_one(con, cache, decoder, kind, lot)
        return
    import pyarrow

    # Moments are UTC in the cache, without a zone.
    plain = [
        column.cast(pyarrow.timestamp("us")) if pyarrow.types.is_timestamp(column.type) else column
        for column in found.columns
    ]
    arrow = pyarrow.table(
        [*plain, pyarrow.array(lot.ids), pyarrow.array(lot.times), pyarrow.array(lot.offsets)],
        [*found.schema.names, "_id", "_at", "_offset"],
    )
    con.register("arrow", arrow)
    con.execute(f"INSERT INTO {_table(kind)} BY NAME SELECT * FROM arrow")
    con.unregister("arrow")


def _read_one_by_one(
    con: duckdb.DuckDBPyConnection, cache: Path, decoder: Decoder, kind: str, lot: _Lot
) -> None:
    # Beside the cache and named like it: another source may be catching up at the same time.
    path = cache.with_suffix(".ndjson")
    types = columns(kind) | {"_id": "VARCHAR", "_at": "BIGINT", "_offset": "BIGINT"}
    spec = ", ".join(f"'{name}': '{type_}'" for name, type_ in types.items())
    try:
        with open(path, "w", encoding="utf-8", opener=_private) as out:
            for key, at, offset, value in zip(
                lot.ids, lot.times, lot.offsets, lot.values, strict=True
            ):
                try:
                    record: Record | None = decoder.decode(value)
                except Never:
                    record = None  # an erasure, or not ours to mend here: nothing to compare with
                row = {"_id": key, "_at": at, "_offset": offset, **(record or {})}
                out.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        con.execute(
            f"INSERT INTO {_table(kind)} BY NAME SELECT * FROM "
            f"read_json({text_literal(str(path))}, format = 'newline_delimited', "
            f"columns = {{{spec}}})"
        )
    finally:
        path.unlink(missing_ok=True)


def _plain(value: Any) -> str:
    """Dates and times as DuckDB reads them; times are UTC already."""
    text: str = value.isoformat()
    return text.removesuffix("+00:00")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
