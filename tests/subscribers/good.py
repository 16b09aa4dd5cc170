"""A vendor's subscriber that passes `bus vendors certify`.

It keeps its records in SQLite, and commits each event there before it asks for the next one.
"""

from __future__ import annotations

import json
import os
import sqlite3
import threading
import time
from pathlib import Path

from bus import Event, subscribe

STATE = Path(os.environ["CERTIFY_STATE"])
STORE = STATE.with_name("store.sqlite")
IDLE_SECONDS = 1.0
last_event = time.monotonic()


def main() -> None:
    """Store events until killed; write the state file from another thread."""
    global last_event
    store = opened()
    threading.Thread(target=write_state, daemon=True).start()
    for event in subscribe(
        *os.environ["CERTIFY_KINDS"].split(","),
        agreement=os.environ["CERTIFY_AGREEMENT"],
        group=os.environ["CERTIFY_GROUP"],
    ):
        last_event = time.monotonic()
        handle(store, event)
        store.commit()


def opened() -> sqlite3.Connection:
    """Return a connection to the store, which has a table for all records."""
    store = sqlite3.connect(STORE)
    store.execute("CREATE TABLE IF NOT EXISTS held (kind, id, record, PRIMARY KEY (kind, id))")
    return store


def handle(store: sqlite3.Connection, event: Event) -> None:
    """Store the state of a record, or delete it."""
    if event.record is None:
        store.execute("DELETE FROM held WHERE kind = ? AND id = ?", (event.kind, event.key))
        return
    record = json.dumps(event.record, default=str)
    store.execute("INSERT OR REPLACE INTO held VALUES (?, ?, ?)", (event.kind, event.key, record))


def write_state() -> None:
    """Write the state whenever the file is missing and nothing has arrived for a second."""
    store = opened()
    while True:
        time.sleep(0.1)
        if STATE.exists() or time.monotonic() - last_event < IDLE_SECONDS:
            continue
        lines = [
            json.dumps({"kind": kind, "id": id_, "record": json.loads(record)})
            for kind, id_, record in store.execute("SELECT kind, id, record FROM held")
        ]
        part = STATE.with_name("state.part")
        part.write_text("".join(f"{line}\n" for line in lines), "utf-8")
        part.rename(STATE)


if __name__ == "__main__":
    main()
