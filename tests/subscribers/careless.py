"""A vendor's subscriber with two defects, which `bus vendors certify` must find.

It ignores deletions. It also keeps messages in memory until no more have come for a while, but their
offsets are committed before that. So a crash loses these messages.
"""

from __future__ import annotations

import os
import threading
import time

from bus import Event, subscribe
from tests.subscribers import good

QUIET_SECONDS = 0.8
waiting: list[Event] = []
lock = threading.Lock()


def main() -> None:
    """Keep events in memory; other threads store them and write the state file."""
    for act in (store_when_quiet, good.write_state):
        threading.Thread(target=act, daemon=True).start()
    for event in subscribe(
        *os.environ["CERTIFY_KINDS"].split(","),
        agreement=os.environ["CERTIFY_AGREEMENT"],
        group=os.environ["CERTIFY_GROUP"],
    ):
        good.last_event = time.monotonic()
        with lock:
            waiting.append(event)


def store_when_quiet() -> None:
    """Store the events of the memory when no more have come for a while."""
    store = good.opened()
    while True:
        time.sleep(0.05)
        if time.monotonic() - good.last_event < QUIET_SECONDS:
            continue
        with lock:
            for event in waiting:
                if event.record is not None:
                    good.handle(store, event)
            store.commit()
            waiting.clear()


if __name__ == "__main__":
    main()
