"""The quarantine: what was wrong with the input, where, and what to do; never the value itself.

One topic, `PREFIX.quarantine`: the key names the fault, so the same fault found again tomorrow
replaces itself; the value is JSON.
"""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from typing import TYPE_CHECKING, Any

from bus.kafka import topics
from bus.kafka.cloudevents import Headers
from bus.kafka.reader import scan
from bus.source import Fault

if TYPE_CHECKING:
    from bus.ingest.workspace import Workspace
    from bus.kafka.transactions import Publisher
    from bus.settings import Settings


def fault_id(source: str, fault: Fault) -> str:
    """A name for a fault that is the same each time the same fault is found."""
    parts = (source, fault.file, str(fault.line), fault.column, fault.reason)
    return hashlib.sha256("\0".join(parts).encode()).hexdigest()[:32]


def publish_new(
    workspace: Workspace,
    publisher: Publisher,
    settings: Settings,
    source: str,
    faults: Iterable[Fault],
    time: str,
) -> list[str]:
    """Publish the faults that the source did not have last time, within a transaction.

    A cache that was made anew does not know what it had; what the topic holds then counts.
    Returns the ids of all faults of this run, for `remember`.
    """
    known = {row[0] for row in workspace.sql(f"SELECT id FROM {workspace.quarantined}")}
    faults = list(faults)
    if None in known and faults:
        known = {
            (message.key() or b"").decode()
            for message in scan(settings, topics.quarantine(settings))
        }
    ids = []
    for fault in faults:
        ids.append(name := fault_id(source, fault))
        if name in known:
            continue
        known.add(name)
        publish(publisher, settings, source, [fault], time)
    return ids


def publish(
    publisher: Publisher, settings: Settings, source: str, faults: Iterable[Fault], time: str
) -> None:
    """Publish faults within a transaction, known or not."""
    for fault in faults:
        value = json.dumps({"source": source, "time": time, **asdict(fault)}, ensure_ascii=False)
        headers: Headers = [("content-type", b"application/json")]
        name = fault_id(source, fault).encode()
        publisher.raw(topics.quarantine(settings), name, value.encode(), headers)


def remember(workspace: Workspace, ids: list[str]) -> None:
    """Note which faults the source has now, after they are published."""
    known = workspace.quarantined
    with workspace.transaction():
        workspace.sql(f"DELETE FROM {known}")
        workspace.sql(f"INSERT INTO {known} SELECT unnest(?::VARCHAR[])", [ids])


def read(settings: Settings) -> list[dict[str, Any]]:
    """All that is in the quarantine, the latest of each fault, oldest first."""
    latest: dict[bytes, dict[str, Any]] = {}
    for message in scan(settings, topics.quarantine(settings)):
        key, value = message.key() or b"", message.value()
        latest.pop(key, None)
        if value is not None:
            latest[key] = json.loads(value)
    return list(latest.values())
