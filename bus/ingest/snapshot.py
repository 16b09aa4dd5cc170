"""Keep a cache of what one source last published, with which an extract is compared.

Kafka is the store of record. The cache is a DuckDB file with the latest state of each record that
the source has published, and the offsets up to which it is complete. It may be out of date, for
example after a kill between the commit and the update of the cache, so it is brought up to date
from the topics before every use. It is rebuilt from the topics if it is missing, damaged, from
another cluster or from another version of the standard, or if other rules were used to read rows
(see `bus.ingest.integrity.RULES`).
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import defaultdict
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import quote

import duckdb

from bus.delivery import Position
from bus.errors import Never
from bus.ingest import integrity, quarantine
from bus.ingest.coercion import text_literal
from bus.ingest.columns import columns, definition, fingerprint, quoted
from bus.ingest.workspace import Workspace
from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import Reader
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard import KINDS, Record
from bus.standard.meaning import meaning

READ = 10_000
"""How many messages are read at once to bring the cache up to date."""
TAKEN = 50_000
"""How many records are decoded at once."""


def cache_file(settings: Settings, source: str) -> Path:
    """Return the path of a source's cache. It differs for each source of each prefix."""
    name = quote(source.strip("/"), safe="")
    return settings.home / "published" / settings.topic_prefix / f"{name}.duckdb"


def attach(
    workspace: Workspace,
    settings: Settings,
    source: str,
    rules: str = "",
    cache: Path | None = None,
) -> None:
    """Attach the source's cache to a workspace, and bring it up to date with the topics.

    rules: the version of the source's own reading rules, see `bus.ingest.pipeline.produce`.
    cache: a copy of the source's cache to use instead of it (see `copy`).
    """
    path = cache or cache_file(settings, source)
    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
    failure = "could not read what was last published: Kafka says {}; try again when Kafka is up"
    with Reader(settings, failure) as reader:
        mark = _mark(reader.cluster(), rules)
        _open(workspace, path, mark)
        ends = reader.ends([topics.topic(settings, kind) for kind in KINDS])
        if not _fits(workspace, ends):
            workspace.detach()
            _remove(path)
            _open(workspace, path, mark)
        _catch_up(workspace, settings, source, path, reader, ends)


def copy(settings: Settings, source: str, target: Path) -> None:
    """Copy the source's cache, if there is one. No other process may write it at the same time."""
    path = cache_file(settings, source)
    for suffix in ("", ".wal"):
        part = path.with_name(path.name + suffix)
        if part.exists():
            shutil.copyfile(part, target.with_name(target.name + suffix))


def remember(workspace: Workspace, settings: Settings, kinds: list[str]) -> None:
    """Store in the cache what has just been published (`change_KIND`, see `bus.ingest.diff`).

    Call this after the commit. The stored offsets are the current ends of the topics. Only this
    process publishes as this source, so all earlier events of the source are in the cache.
    """
    workspace.require(*map(workspace.change, kinds), *map(workspace.record, kinds))
    ends = _ends(settings)
    with workspace.transaction():
        for kind in kinds:
            fields = ", ".join(quoted(name) for name in columns(kind))
            table, change = workspace.published(kind), workspace.change(kind)
            workspace.sql(
                f"DELETE FROM {table} WHERE sourcedId IN "
                f"(SELECT sourcedId FROM {change} WHERE _change <> 'created' OR _again)"
            )
            workspace.sql(
                f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'c')}, _raw "
                f"FROM {change} c WHERE NOT _moved"
            )
            workspace.sql(
                f"UPDATE {table} b SET _raw = r._raw FROM {workspace.record(kind)} r "
                "WHERE r.sourcedId = b.sourcedId AND r._raw IS DISTINCT FROM b._raw"
            )
        _set_positions(workspace, ends)


def _ends(settings: Settings) -> dict[Position, int]:
    failure = (
        "everything is published, but Kafka does not report the end offsets ({}); run it again "
        "when Kafka is up; nothing is published twice"
    )
    with Reader(settings, failure) as reader:
        return reader.ends([topics.topic(settings, kind) for kind in KINDS])


def _mark(cluster: str, rules: str) -> str:
    """Return a hash of what the cache depends on besides the offsets.

    It covers the cluster, the DuckDB version (hashes depend on it), the standard, the rules of the
    bus and of the source for reading and validating rows, and what makes two faults the same.
    """
    schemas = {
        name: (meaning(kind.schema), kind.owner, dict(kind.references), dict(kind.when))
        for name, kind in KINDS.items()
    }
    versions = (integrity.RULES, quarantine.IDENTITY, rules)
    parts = (cluster, duckdb.__version__, schemas, *versions)
    return hashlib.sha256(json.dumps(parts, sort_keys=True).encode()).hexdigest()


def _open(workspace: Workspace, path: Path, mark: str) -> None:
    try:
        workspace.attach(path)
        workspace.sql(f"CREATE TABLE IF NOT EXISTS {workspace.about} (mark VARCHAR)")
        found = workspace.sql(f"SELECT mark FROM {workspace.about}")
        if found in ([], [(mark,)]):
            if not found:
                _create(workspace, mark)
            return
    except duckdb.Error:
        logging.getLogger(__name__).debug("the cache of published records is rebuilt")
    workspace.detach()
    _remove(path)
    workspace.attach(path)
    workspace.sql(f"CREATE TABLE {workspace.about} (mark VARCHAR)")
    _create(workspace, mark)


def _create(workspace: Workspace, mark: str) -> None:
    with workspace.transaction():
        for kind in KINDS:
            workspace.sql(
                f"CREATE TABLE {workspace.published(kind)} "
                f"({definition(kind)}, _fingerprint UBIGINT, _raw UBIGINT)"
            )
        workspace.sql(
            f"CREATE TABLE {workspace.position} "
            "(topic VARCHAR, partition INTEGER, next_offset BIGINT)"
        )
        workspace.sql(
            f"CREATE TABLE {workspace.quarantined} (id VARCHAR, key VARCHAR, kind VARCHAR, "
            "line BIGINT, count BIGINT, told TIMESTAMP)"
        )
        # NULL: the current faults are not known, see `bus.ingest.quarantine.compare`
        workspace.sql(f"INSERT INTO {workspace.quarantined} (id) VALUES (NULL)")
        workspace.sql(f"INSERT INTO {workspace.about} VALUES (?)", [mark])


def _remove(path: Path) -> None:
    path.unlink(missing_ok=True)
    path.with_name(path.name + ".wal").unlink(missing_ok=True)


def _positions(workspace: Workspace) -> dict[Position, int]:
    rows = workspace.sql(f"SELECT topic, partition, next_offset FROM {workspace.position}")
    return {Position(topic, partition): offset for topic, partition, offset in rows}


def _set_positions(workspace: Workspace, ends: dict[Position, int]) -> None:
    workspace.sql(f"DELETE FROM {workspace.position}")
    if ends:
        workspace.con.executemany(
            f"INSERT INTO {workspace.position} VALUES (?, ?, ?)",
            [[topic, partition, offset] for (topic, partition), offset in ends.items()],
        )


def _fits(workspace: Workspace, ends: dict[Position, int]) -> bool:
    """Return whether the topics reach as far as the cache.

    They do not after a topic was recreated.
    """
    return all(offset <= ends.get(part, -1) for part, offset in _positions(workspace).items())


@dataclass(slots=True)
class _MessageColumns:
    """Messages of one kind as columns: keys, Kafka's timestamps (ms), offsets, values."""

    ids: list[str] = field(default_factory=list)
    times: list[int] = field(default_factory=list)
    offsets: list[int] = field(default_factory=list)
    values: list[bytes | None] = field(default_factory=list)


def _catch_up(
    workspace: Workspace,
    settings: Settings,
    source: str,
    path: Path,
    reader: Reader,
    ends: dict[Position, int],
) -> None:
    positions = _positions(workspace)
    lookup = schema_lookup(settings)
    decoders = {kind: Decoder(kind, lookup) for kind in KINDS}
    read: set[str] = set()
    for batches in _published(settings, source, reader, ends, positions):
        for kind, batch in batches.items():
            read.add(kind)
            _read(workspace, path, decoders[kind], kind, batch)
    with workspace.transaction():
        for kind in read:
            _upsert(workspace, kind)
        _set_positions(workspace, positions)


def _published(
    settings: Settings,
    source: str,
    reader: Reader,
    ends: dict[Position, int],
    positions: dict[Position, int],
) -> Iterator[dict[str, _MessageColumns]]:
    """Yield what the source has published since `positions`, in batches, and update `positions`."""
    kinds = {topics.topic(settings, kind): kind for kind in KINDS}
    start = {place: positions.get(place, 0) for place in ends}
    start = {place: at for place, at in start.items() if at < ends[place]}
    batches: defaultdict[str, _MessageColumns] = defaultdict(_MessageColumns)
    for messages in reader.batches(start, at_once=READ):
        for message in messages:
            if header(message, "ce_source") != source:
                continue
            batch = batches[kinds[message.topic() or ""]]
            batch.ids.append((message.key() or b"").decode("utf-8", "replace"))
            batch.times.append(message.timestamp()[1])
            batch.offsets.append(message.offset() or 0)
            batch.values.append(message.value())
        if sum(len(batch.ids) for batch in batches.values()) >= TAKEN:
            yield batches
            batches.clear()
    positions.update(reader.reached)
    yield batches


def _upsert(workspace: Workspace, kind: str) -> None:
    """Replace records in the cache by the latest state of each record that was read."""
    fields = ", ".join(f"r.{quoted(name)}" for name in columns(kind))
    table, read, latest = workspace.published(kind), workspace.read(kind), workspace.latest
    workspace.sql(
        f"CREATE OR REPLACE TEMP TABLE {latest} AS SELECT rowid AS at, _id FROM {read} "
        # A record that moved to another owner is withdrawn in one partition and active in
        # another, both possibly in the same millisecond. The active state is the later one.
        "QUALIFY row_number() OVER (PARTITION BY _id "
        "ORDER BY _at DESC, status = 'active' DESC, _offset DESC) = 1"
    )
    workspace.sql(f"DELETE FROM {table} WHERE sourcedId IN (SELECT _id FROM {latest})")
    workspace.sql(
        f"INSERT INTO {table} SELECT {fields}, {fingerprint(kind, 'r')}, NULL "
        f"FROM {read} r JOIN {latest} l ON r.rowid = l.at WHERE r.sourcedId IS NOT NULL"
    )
    workspace.sql(f"DROP TABLE {latest}; DROP TABLE {read}")


def _read(
    workspace: Workspace, cache: Path, decoder: Decoder, kind: str, batch: _MessageColumns
) -> None:
    """Add a batch of messages to `read_KIND`, each with its key, Kafka's timestamp and its offset.

    A message that cannot be decoded becomes a row with only these.
    """
    workspace.sql(
        f"CREATE TEMP TABLE IF NOT EXISTS {workspace.read(kind)} "
        f"({definition(kind)}, _id VARCHAR, _at BIGINT, _offset BIGINT)"
    )
    found = decoder.columns(batch.values)
    if found is None:
        _read_one_by_one(workspace, cache, decoder, kind, batch)
        return
    import pyarrow

    # Timestamps in the cache are in UTC, without a time zone.
    plain = [
        column.cast(pyarrow.timestamp("us")) if pyarrow.types.is_timestamp(column.type) else column
        for column in found.columns
    ]
    arrow = pyarrow.table(
        [
            *plain,
            pyarrow.array(batch.ids),
            pyarrow.array(batch.times),
            pyarrow.array(batch.offsets),
        ],
        [*found.schema.names, "_id", "_at", "_offset"],
    )
    workspace.insert(workspace.read(kind), arrow)


def _read_one_by_one(
    workspace: Workspace, cache: Path, decoder: Decoder, kind: str, batch: _MessageColumns
) -> None:
    # Name the file after the cache, as another source may read its topics at the same time.
    path = cache.with_suffix(".ndjson")
    types = columns(kind) | {"_id": "VARCHAR", "_at": "BIGINT", "_offset": "BIGINT"}
    spec = ", ".join(f"'{name}': '{type_}'" for name, type_ in types.items())
    try:
        with open(path, "w", encoding="utf-8", opener=_private) as out:
            for key, at, offset, value in zip(
                batch.ids, batch.times, batch.offsets, batch.values, strict=True
            ):
                try:
                    record: Record | None = decoder.decode(value)
                except Never:
                    record = None  # erased or not readable: nothing to compare with
                row = {"_id": key, "_at": at, "_offset": offset, **(record or {})}
                out.write(json.dumps(row, ensure_ascii=False, default=_plain) + "\n")
        workspace.sql(
            f"INSERT INTO {workspace.read(kind)} BY NAME SELECT * FROM "
            f"read_json({text_literal(str(path))}, format = 'newline_delimited', "
            f"columns = {{{spec}}})"
        )
    finally:
        path.unlink(missing_ok=True)


def _plain(value: Any) -> str:
    """Return a date or timestamp as DuckDB reads it. Timestamps are in UTC already."""
    text: str = value.isoformat()
    return text.removesuffix("+00:00")


def _private(path: str, flags: int) -> int:
    return os.open(path, flags, 0o600)
