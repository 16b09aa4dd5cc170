"""A vendor's subscriber that keeps what it must delete. `bus vendors certify` must fail it."""

from __future__ import annotations

import sqlite3

from bus import Event
from tests.subscribers import good


def handle(store: sqlite3.Connection, event: Event) -> None:
    """Store the state of a record, and ignore a deletion."""
    if event.record is not None:
        keep(store, event)


keep, good.handle = good.handle, handle

if __name__ == "__main__":
    good.main()
