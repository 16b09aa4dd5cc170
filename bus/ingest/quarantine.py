"""The quarantine: what was wrong with the input, where, and what to do; never the value itself.

One topic, `PREFIX.quarantine`: the key names the fault, so the same fault found again tomorrow
replaces itself; the value is JSON. An empty value says that a later extract no longer has the
fault. So what stands in the topic is what the latest extract of each source found. An extract that
holds changes only says nothing of the rows that it does not have, so their faults stand.

What makes a fault the same is where it is and its code. Its text is no part of that: worded anew,
it is the same fault.
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
"""The version of `fault_id`, and of what the cache keeps of faults. 1: by the text."""

AGAIN = timedelta(days=20)
"""A fault that stands for so long is published again: Kafka keeps this topic for 30 days."""


@dataclass(frozen=True, slots=True)
class Standing:
    """A fault that is in the topic.

    key:  of its message. kind, line, count: as `bus.source.Fault` has them.
    told: when it was published, UTC.
    """

    key: str
    kind: str
    line: int
    count: int
    told: datetime


@dataclass(slots=True)
class FaultChanges:
    """The faults of a run against those that stood before it.

    new:      to be published: by their ids. gone: the keys of those that no longer stand.
    standing: what stands after the run, by id.
    """

    new: dict[str, Fault]
    gone: list[str]
    standing: dict[str, Standing]

    def __bool__(self) -> bool:
        return bool(self.new or self.gone)


def fault_id(source: str, fault: Fault, number: int = 0) -> str:
    """A name for a fault that is the same each time the same fault is found.

    Of a fault with the general code the text counts, as the code alone tells nothing apart.

    number: how many others of the same place and code came before it: one field may hold several
            values that are on no list.
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
    """What a run changes in the quarantine.

    A cache that was made anew does not know what stands; what the topic holds then counts.
    """
    rows = workspace.sql(f"SELECT id, key, kind, line, count, told FROM {workspace.quarantined}")
    if any(row[0] is None for row in rows):
        before = _in_the_topic(settings, source)
    else:
        before = {
            id_: Standing(key, kind, line, count, told.replace(tzinfo=UTC))
            for id_, key, kind, line, count, told in rows
        }
    now = datetime.now(UTC)
    changes = FaultChanges({}, [], {})
    for name, fault in _named(source, faults):
        fresh = fault.kind, fault.line, fault.count, now
        was = before.get(name)
        if was is None or was.count != fault.count or now - was.told > AGAIN:
            changes.new[name] = fault
            changes.standing[name] = Standing(name, *fresh)
            if was is not None and was.key != name:
                changes.gone.append(was.key)
        elif name not in changes.standing:
            changes.standing[name] = was
    for name, was in before.items():
        if name in changes.standing:
            continue
        if _looked_at(was, coverage):
            changes.gone.append(was.key)
        elif now - was.told < 2 * AGAIN:  # else Kafka has forgotten it
            changes.standing[name] = was
    return changes


def _named(source: str, faults: Iterable[Fault]) -> Iterator[tuple[str, Fault]]:
    """Each fault with its name; one that comes twice has one name."""
    found: dict[str, list[Fault]] = {}
    for fault in faults:
        same = found.setdefault(fault_id(source, fault), [])
        if fault not in same:
            same.append(fault)
            yield fault_id(source, fault, len(same) - 1), fault


def _looked_at(was: Standing, coverage: Mapping[str, Coverage]) -> bool:
    """Whether a run would have found a fault again if it still stood."""
    whole_file = was.line <= 1 and was.count == 1
    if was.kind:
        how = coverage.get(was.kind)
        return how == "bulk" or (how is not None and whole_file)
    kept = (how for kind, how in coverage.items() if KINDS[kind].retention != "time")
    return bool(coverage) and (whole_file or all(how == "bulk" for how in kept))


def _in_the_topic(settings: Settings, source: str) -> dict[str, Standing]:
    """What stands of a source, by id; what earlier versions wrote is known by its text."""
    found: dict[str, Standing] = {}
    now = datetime.now(UTC)
    for one in _entries(settings):
        if one.entry["source"] != source:
            continue
        fault = fault_of(one.entry)
        # However old it is, it is there; it is published again in time, not at once.
        told = max(datetime.fromtimestamp(one.at / 1000, UTC), now - AGAIN + timedelta(days=1))
        standing = Standing(one.key, fault.kind, fault.line, fault.count, told)
        found[fault_id(source, fault) if one.earlier else one.key] = standing
    return found


def publish_changes(
    publisher: Publisher, settings: Settings, source: str, changes: FaultChanges, time: str
) -> None:
    """Publish what a run changes, within a transaction."""
    _publish(publisher, settings, source, changes.new.items(), time)
    for key in changes.gone:
        publisher.raw(topics.quarantine(settings), key.encode(), None, [])


def publish(
    publisher: Publisher, settings: Settings, source: str, faults: Iterable[Fault], time: str
) -> None:
    """Publish faults within a transaction, known or not."""
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
    """Note which faults the source has now, after they are published."""
    known = workspace.quarantined
    ids = list(changes.standing)
    rows = list(changes.standing.values())
    columns = [
        ids,
        [row.key for row in rows],
        [row.kind for row in rows],
        [row.line for row in rows],
        [row.count for row in rows],
        [row.told.astimezone(UTC).replace(tzinfo=None) for row in rows],
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
    """What stands in the quarantine, oldest first.

    everything: also what no longer stands, as long as Kafka has it.
    """
    return [one.entry for one in _entries(settings, everything=everything)]


def fault_of(entry: Mapping[str, Any]) -> Fault:
    """The fault that `read` gave."""
    names = Fault.__dataclass_fields__
    return Fault(**{name: value for name, value in entry.items() if name in names})


class _Entry(NamedTuple):
    """A fault in the topic, with Kafka's time (ms).

    earlier: whether version 0.1.0 wrote it, without a code: it has that of its text, and its key is
             not its id.
    """

    entry: dict[str, Any]
    key: str
    at: int
    earlier: bool


def _entries(settings: Settings, *, everything: bool = False) -> list[_Entry]:
    """The latest of each fault in the topic, oldest first."""
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
    """What an entry of version 0.1.0 lacks."""
    code = code_of_earlier(entry["reason"])
    more = re.match(r"([\d,]+) more rows", entry["reason"])
    found = {"code": str(code), "count": int(more[1].replace(",", "")) if more else 1}
    place = re.match(r"column \d+", entry["reason"])
    if code is FaultCode.UNKNOWN_COLUMN and place:
        found["column"] = place[0]
    return found
