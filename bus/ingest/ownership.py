"""Record which sources publish which kinds, and find out to which source an id belongs.

An id is one record to every product. It belongs to the source that published it first, until that
source withdraws it. One small compacted topic, `PREFIX.sources`, has a message for each source: the
key is the source, and the value is a JSON list of its kinds. The owner of an id is looked up only
if another source publishes the same kind. The lookup reads the whole topic of the kind, keys and
headers only.
"""

from __future__ import annotations

import json
from collections import Counter
from collections.abc import Iterable

from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import scan
from bus.kafka.sender import send
from bus.settings import Settings
from bus.source import Fault
from bus.standard.fault_codes import FaultCode

NOT_OURS = (
    "the id belongs to a record of another source; the row was left out; give each source "
    "different ids, or withdraw the record from the other source first"
)


def announce(settings: Settings, source: str, kinds: Iterable[str]) -> set[str]:
    """Record which kinds a source publishes, and return the kinds that other sources publish.

    Call this before the source publishes. Raises `RetryLater` when Kafka does not accept the
    message, and `Stop` when this user may not write to the topic.
    """
    topics.ensure(settings, [topics.sources(settings)])
    known = _announced(settings)
    ours = known.pop(source, set())
    if new := set(kinds) - ours:
        _publish_kinds(settings, source, ours | new)
    return {kind for others in known.values() for kind in others}


def announced(settings: Settings) -> set[str]:
    """Return the kinds that some source publishes, even if it has published no record yet."""
    return {kind for kinds in _announced(settings).values() for kind in kinds}


def others(settings: Settings, source: str) -> set[str]:
    """Return the kinds that other sources publish, without recording anything."""
    known = _announced(settings)
    return {kind for name, kinds in known.items() if name != source for kind in kinds}


def taken(settings: Settings, kind: str, ids: Iterable[str], *, other_than: str) -> set[str]:
    """Return which of these ids belong to active records of other sources."""
    wanted = {id_.encode(): id_ for id_ in ids}
    found: set[str] = set()
    if wanted:
        for message in scan(settings, topics.topic(settings, kind)):
            id_ = wanted.get(message.key() or b"")
            if id_ is None or header(message, "ce_source") in (other_than, None):
                continue
            if (header(message, "ce_type") or "").endswith(".withdrawn"):
                found.discard(id_)
            else:
                found.add(id_)
    return found


def faults(kind: str, rows: Iterable[tuple[str, str, int]], most: int) -> list[Fault]:
    """Return faults for rows whose ids belong to records of other sources.

    rows: the id, file and line of each row.
    most: how many faults of a file are reported one by one. The rest is reported as a number.
    """
    reported: Counter[str] = Counter()
    found = []
    for id_, file, line in rows:
        reported[file] += 1
        if reported[file] <= most:
            about = "sourcedId", f"text of {len(id_)} characters", NOT_OURS, True, kind
            found.append(Fault(file, line, *about, FaultCode.FOREIGN_ID))
    for file, number in reported.items():
        if (left := number - most) > 0:
            more = f"{left:,} more rows with the same fault: {NOT_OURS}"
            found.append(
                Fault(file, 0, "sourcedId", "", more, True, kind, FaultCode.FOREIGN_ID, left)
            )
    return found


def _announced(settings: Settings) -> dict[str, set[str]]:
    return {
        (message.key() or b"").decode("utf-8", "replace"): set(json.loads(message.value() or b"[]"))
        for message in scan(settings, topics.sources(settings))
    }


def _publish_kinds(settings: Settings, source: str, kinds: set[str]) -> None:
    send(
        settings,
        topics.sources(settings),
        json.dumps(sorted(kinds)).encode(),
        source.encode(),
        doing="announce this source",
        seconds=30,
    )
