"""A vendor's own reading: who eats, said as it changes."""

from __future__ import annotations

from collections.abc import Iterator

from bus import Event, subscribe
from bus.standard import Student


def said(event: Event) -> str:
    """What the counter hears of an event; no name, as it may be printed."""
    student: Student = event.record
    eats = "eats" if student["status"] == "active" else "eats no more"
    return f"{student['sourcedId']} {eats} ({event.type} at {event.time:%H:%M})"


def listen() -> Iterator[str]:
    """All that the counter has not heard yet."""
    for event in subscribe("student", group="lunch-counter", until_caught_up=True):
        yield said(event)
