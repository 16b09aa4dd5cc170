"""Keep the quarantine: what was wrong with the input, where, and what to do; never the value.

The quarantine is one topic, `PREFIX.quarantine`. The key identifies the fault, so the same fault
replaces itself when it is found again. The value is JSON. An empty value says that a later extract
no longer has the fault. So the topic holds what the latest extract of each source found. An extract
that has changes only says nothing about other rows, so their faults remain.

Two faults are the same if they agree in place and code. The text does not count, so a change of
wording makes no new fault.
"""

from __future__ import annotations

import hashlib
import json
import re
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import asdict, dataclass
from datetime import UTC, datetime, timedelta
from typing import TYPE_CHECKING, Any, NamedTuple

from bus.kafka import topics
from bus.kafka.cloudevents import Headers
from bus.kafka.reader import scan
from bus.source import Coverage, Fault
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode, code_of_earlier

if TYPE_CHECKING:
    from bus.ingest.workspace import Workspace
    from bus.kafka.transactions import Publisher
    from bus.settings import Settings

IDENTITY = 2
"""The version of `fault_id`, and of what the cache keeps of faults. Version 1 used the text."""

AGAIN = timedelta(days=20)
"""A fault that remains for this long is published again, as Kafka keeps this topic for 30 days."""


@dataclass(frozen=True, slots=True)
class KnownFault:
    """A fault that is in the topic.

    key:  the key of its message.
    kind, line, count: as in `bus.source.Fault`.
    published: when it was published, UTC.
    """

    key: str
    kind: str
    line: int
    count: int
    published: datetime


@dataclass(slots=True)
class FaultChanges:
    """The faults of a run, compared with the faults before it.

    new:      the faults to publish, by id.
    resolved: the keys of faults that no longer exist.
    current:  the faults that are in the topic after the run, by id.
    """

    new: dict[str, Fault]
    resolved: list[str]
    current: dict[str, KnownFault]

    def __bool__(self) -> bool:
        return bool(self.new or self.resolved)


def fault_id(source: str, fault: Fault, number: int = 0) -> str:
    """Return an id for a fault that is the same each time the same fault is found.

    For a fault with the general code (`other`) the text counts, because the code alone does not
    distinguish it from others.

    number: how many other faults with the same place and code came before it. One field may hold
            several values that are not in a list.
    """
    parts = [source, fault.file, fault.kind, str(fault.line), fault.column, fault.code]
    if fault.code == FaultCode.OTHER:
        parts.append(fault.reason)
    if number:
        parts.append(str(number))
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def compare(
    workspace: Workspace,
    settings: Settings,
    source: str,
    faults: Iterable[Fault],
    coverage: Mapping[str, Coverage],
) -> FaultChanges:
    """Return what a run changes in the quarantine.

    A rebuilt cache does not know which faults are in the topic. They are then read from the topic.
    """
    rows = workspace.sql(f"SELECT id, key, kind, line, count, told FROM {workspace.quarantined}")
    if any(row[0] is None for row in rows):
        before = _in_the_topic(settings, source)
    else:
        before = {
            id_: KnownFault(key, kind, line, count, published.replace(tzinfo=UTC))
            for id_, key, kind, line, count, published in rows
        }
    now = datetime.now(UTC)
    changes = FaultChanges({}, [], {})
    for name, fault in _named(source, faults):
        fresh = fault.kind, fault.line, fault.count, now
        was = before.get(name)
        if was is None or was.count != fault.count or now - was.published > AGAIN:
            changes.new[name] = fault
            changes.current[name] = KnownFault(name, *fresh)
            if was is not None and was.key != name:
                changes.resolved.append(was.key)
        elif name not in changes.current:
            changes.current[name] = was
    for name, was in before.items():
        if name in changes.current:
            continue
        if _would_find_again(was, coverage):
            changes.resolved.append(was.key)
        elif now - was.published < 2 * AGAIN:  # otherwise Kafka has deleted it
            changes.current[name] = was
    return changes


def _named(source: str, faults: Iterable[Fault]) -> Iterator[tuple[str, Fault]]:
    """Yield each fault with its id. A fault that comes twice is yielded once."""
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        same = found.setdefault(fault_id(source, fault), [])
        if fault not in same:
            same.append(fault)
            yield fault_id(source, fault, len(same) - 1), fault


def _would_find_again(was: KnownFault, coverage: Mapping[str, Coverage]) -> bool:
    """Return whether a run would have found a fault again if it still existed."""
    whole_file = was.line <= 1 and was.count == 1
    if was.kind:
        how = coverage.get(was.kind)
        return how == "bulk" or (how is not None and whole_file)
    kept = (how for kind, how in coverage.items() if KINDS[kind].retention != "time")
    return bool(coverage) and (whole_file or all(how == "bulk" for how in kept))


def _in_the_topic(settings: Settings, source: str) -> dict[str, KnownFault]:
    """Return the current faults of a source in the topic, by id.

    Version 0.1.0 used other keys, so the id of its faults is computed.
    """
    found: dict[str, KnownFault] = {}
    now = datetime.now(UTC)
    for one in _entries(settings):
        if one.entry["source"] != source:
            continue
        fault = fault_of(one.entry)
        # Treat an old fault as 19 days old, so it is published again soon, but not now.
        published = max(datetime.fromtimestamp(one.at / 1000, UTC), now - AGAIN + timedelta(days=1))
        known = KnownFault(one.key, fault.kind, fault.line, fault.count, published)
        found[fault_id(source, fault) if one.earlier else one.key] = known
    return found


def publish_changes(
    publisher: Publisher, settings: Settings, source: str, changes: FaultChanges, time: str
) -> None:
    """Publish what a run changes, inside a transaction."""
    _publish(publisher, settings, source, changes.new.items(), time)
    for key in changes.resolved:
        publisher.raw(topics.quarantine(settings), key.encode(), None, [])


def publish(
    publisher: Publisher, settings: Settings, source: str, faults: Iterable[Fault], time: str
) -> None:
    """Publish faults inside a transaction, whether they are new or not."""
    _publish(publisher, settings, source, _named(source, faults), time)


def _publish(
    publisher: Publisher,
    settings: Settings,
    source: str,
    faults: Iterable[tuple[str, Fault]],
    time: str,
) -> None:
    for name, fault in faults:
        value = json.dumps({"source": source, "time": time, **asdict(fault)}, ensure_ascii=False)
        headers: Headers = [("content-type", b"application/json")]
        publisher.raw(topics.quarantine(settings), name.encode(), value.encode(), headers)


def remember(workspace: Workspace, changes: FaultChanges) -> None:
    """Store in the cache which faults the source has now, after they are published."""
    known = workspace.quarantined
    ids = list(changes.current)
    rows = list(changes.current.values())
    columns = [
        ids,
        [row.key for row in rows],
        [row.kind for row in rows],
        [row.line for row in rows],
        [row.count for row in rows],
        [row.published.astimezone(UTC).replace(tzinfo=None) for row in rows],
    ]
    with workspace.transaction():
        workspace.sql(f"DELETE FROM {known}")
        workspace.sql(
            f"INSERT INTO {known} SELECT unnest(?::VARCHAR[]), unnest(?::VARCHAR[]), "
            "unnest(?::VARCHAR[]), unnest(?::BIGINT[]), unnest(?::BIGINT[]), "
            "unnest(?::TIMESTAMP[])",
            columns,
        )


def read(settings: Settings, *, everything: bool = False) -> list[dict[str, Any]]:
    """Return the current faults in the quarantine, oldest first.

    everything: also return faults that no longer exist, while Kafka still has them.
    """
    return [one.entry for one in _entries(settings, everything=everything)]


def fault_of(entry: Mapping[str, Any]) -> Fault:
    """Return the fault of an entry that `read` returned."""
    names = Fault.__dataclass_fields__
    return Fault(**{name: value for name, value in entry.items() if name in names})


class _Entry(NamedTuple):
    """A fault in the topic.

    entry:   the fault's JSON value, with the keys that version 0.1.0 lacks.
    key:     the key of the message.
    at:      Kafka's timestamp (ms).
    earlier: whether version 0.1.0 wrote it, without a code. Its code then follows from its text,
             and its key is not its id.
    """

    entry: dict[str, Any]
    key: str
    at: int
    earlier: bool


def _entries(settings: Settings, *, everything: bool = False) -> list[_Entry]:
    """Return the latest state of each fault in the topic, oldest first."""
    latest: dict[bytes, _Entry] = {}
    for message in scan(settings, topics.quarantine(settings)):
        key, value = message.key() or b"", message.value()
        if value is None:
            if not everything:
                latest.pop(key, None)
            continue
        latest.pop(key, None)
        entry = json.loads(value)
        if earlier := "code" not in entry:
            entry |= _of_earlier(entry)
        name = key.decode("utf-8", "replace")
        latest[key] = _Entry(entry, name, message.timestamp()[1], earlier)
    return list(latest.values())


def _of_earlier(entry: Mapping[str, Any]) -> dict[str, Any]:
    """Return the values that an entry of version 0.1.0 lacks."""
    code = code_of_earlier(entry["reason"])
    more = re.match(r"([\d,]+) more rows", entry["reason"])
    found = {"code": str(code), "count": int(more[1].replace(",", "")) if more else 1}
    place = re.match(r"column \d+", entry["reason"])
    if code is FaultCode.UNKNOWN_COLUMN and place:
        found["column"] = place[0]
    return found
