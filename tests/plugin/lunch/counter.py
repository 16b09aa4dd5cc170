"""A vendor's own consumer: it reports who eats as that changes."""

from __future__ import annotations

from collections.abc import Iterator

from bus import Event, subscribe
from bus.standard import Student


def said(event: Event) -> str:
    """Return the line for an event. It has no name, because it may be printed."""
    student: Student = event.record
    eats = "eats" if student["status"] == "active" else "eats no more"
    return f"{student['sourcedId']} {eats} ({event.type} at {event.time:%H:%M})"


def listen() -> Iterator[str]:
    """Yield a line for each event that the counter has not had yet."""
    for event in subscribe("student", group="lunch-counter", until_caught_up=True):
        yield said(event)
