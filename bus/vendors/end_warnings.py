"""The warnings before an agreement's end: when one is due, and what it says."""

from __future__ import annotations

import sqlite3
from collections.abc import Iterable
from datetime import date

from bus.vendors.agreement import Agreement

THRESHOLDS = (30, 7, 1)
"""Days before the end at which a warning is due."""


def threshold(agreement: Agreement, day: date) -> int | None:
    """Return the smallest threshold that an agreement has reached before its end, or None.

    day: today, in the district's calendar.
    """
    left = (agreement.until - day).days
    if left < 0 or day < agreement.from_:
        return None
    return min((one for one in THRESHOLDS if left <= one), default=None)


def renewal_of(name: str, agreements: Iterable[Agreement]) -> str:
    """Return the name of the agreement that renews another one; "" if there is none."""
    return next((one.name for one in agreements if one.renews == name), "")


def ends_in(agreement: Agreement, day: date) -> str:
    """Return in words when an agreement ends: "ends today", "ends in 7 days"."""
    left = (agreement.until - day).days
    return "ends today" if left == 0 else f"ends in {left} {'day' if left == 1 else 'days'}"


def warned(con: sqlite3.Connection, agreement: str, about: str) -> bool:
    """Store a warning about an agreement, and return whether the last stored one was the same.

    about: the content of the warning.
    """
    name = f"warned {agreement}"
    row = con.execute("SELECT value FROM about WHERE name = ?", [name]).fetchone()
    con.execute("INSERT OR REPLACE INTO about VALUES (?, ?)", [name, about])
    return bool(row) and row[0] == about
