"""Completes the end of an agreement, after its last day or a revocation, and the later deletion.

`bus vendors run` and `bus vendors apply` do it on the day itself. If one of them is interrupted,
the next run of either completes it. The steps for one agreement are:

1. Store that it is over (`bus.vendors.revocation`). The projection and all ways stop then.
2. Close the vendor's access.
3. Record the end of the disclosure, once.
4. Store that these steps are complete (`Applied.closed`).
5. After the agreed days, delete what the bus has for the vendor (`bus.vendors.deletion`).
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace
from datetime import date, datetime

from bus.errors import BusError
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import deletion, revocation
from bus.vendors.agreement import Agreement
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter

THRESHOLDS = (30, 7, 1)
"""Days before the end at which a warning is due."""
Say = Callable[[str], object]


def unsettled(applied: Iterable[Applied], day: date) -> list[str]:
    """Return the names of the agreements for which something must be done on this day."""
    return [one.name for one in applied if not _closed(one, day) or deletion.due(one, day)]


def settle(
    settings: Settings,
    name: str,
    day: date,
    now: datetime,
    record: DisclosureWriter,
    say: Say = lambda _: None,
) -> Applied:
    """Take the steps that the end of one agreement needs on this day; return it as stored now.

    day: today, in the district's calendar.
    now: the time, UTC.
    say: called with a sentence for each thing that the cluster's administrator must do.

    Raises `Stop` or `RetryLater` if a step failed. The same call may be made again.
    """
    one = revocation.find(store.read(settings), name)
    if not _closed(one, day):
        one = close(settings, one, day, now, record, say)
    if deletion.due(one, day):
        one = deletion.delete(settings, name, now, record)
        for note in one.certificate.by_others if one.certificate else ():
            say(note)
    return one


def close(
    settings: Settings,
    one: Applied,
    day: date,
    now: datetime,
    record: DisclosureWriter,
    say: Say = lambda _: None,
) -> Applied:
    """Store and record the end of an agreement that is over, and close its vendor's access.

    See `settle` for the arguments and errors. If the access could not be closed, the end is still
    recorded.
    """
    failure: BusError | None = None
    try:
        if one.state == "active":
            one = replace(one, state="ended", ended_at=now)
            store.write(settings, one)
        for note in revocation.close_access(settings, one, day=day):
            say(note)
    except BusError as error:
        if store.read(settings)[one.name].state == "active":
            raise
        failure = error
    if failure is not None:
        _record(one, record, now)
        raise failure
    return complete(settings, one, now, record)


def complete(settings: Settings, one: Applied, now: datetime, record: DisclosureWriter) -> Applied:
    """Record the end of an agreement whose access is closed; return it as it is stored now."""
    if one.closed != one.state:
        _record(one, record, now)
        one = replace(one, closed=one.state)
        store.write(settings, one)
    return one


def _record(one: Applied, record: DisclosureWriter, now: datetime) -> None:
    record.ended(one.name, one.ended_at or now, one.why if one.state == "revoked" else "")


def _closed(one: Applied, day: date) -> bool:
    """Return whether there is no end to complete: the agreement goes on, or its end is complete."""
    return not one.over(day) or (one.state != "active" and one.closed == one.state)


# ---- before the end ------------------------------------------------------------------------------


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
