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
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter

Say = Callable[[str], object]


def unsettled(applied: Iterable[Applied], day: date) -> list[str]:
    """Return the names of the agreements for which something must be done on this day."""
    return [one.name for one in applied if not _closed(one, day) or deletion.due(one, day)]


def settle_all(
    settings: Settings, day: date, now: datetime, record: DisclosureWriter, say: Say
) -> tuple[list[str], list[BusError]]:
    """Take the steps of `settle` for every agreement that needs them.

    If a step fails, the steps of the other agreements are still taken. Returns the names of the
    agreements whose data was deleted now, and the failures. Raises `RetryLater` if the agreements
    cannot be read.
    """
    deleted, failures = [], []
    for name in unsettled(store.read(settings).values(), day):
        try:
            if settle(settings, name, day, now, record, say).deleted:
                deleted.append(name)
        except BusError as error:
            failures.append(error)
    return deleted, failures


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

    def act() -> None:
        over = one
        if over.state == "active":
            over = replace(over, state="ended", ended_at=now)
            store.write(settings, over)
        for note in revocation.close_access(settings, over, day=day):
            say(note)

    return _recorded(settings, one.name, now, record, act)


def revoke(
    settings: Settings,
    name: str,
    why: str,
    now: datetime,
    record: DisclosureWriter,
    say: Say = lambda _: None,
) -> Applied:
    """Revoke an agreement at once, and complete its end; return it as it is stored now.

    See `bus.vendors.revocation.revoke` for the arguments and errors. If the access could not be
    closed, the revocation is still recorded.
    """
    return _recorded(
        settings, name, now, record, lambda: revocation.revoke(settings, name, why, now, say)
    )


def _recorded(
    settings: Settings,
    name: str,
    now: datetime,
    record: DisclosureWriter,
    act: Callable[[], object],
) -> Applied:
    """End an agreement and record that, also if `act` fails after it has stored the end.

    act: stores that the agreement is over, and closes the access.
    """
    failure: BusError | None = None
    try:
        act()
    except BusError as error:
        failure = error
    one = revocation.find(store.read(settings), name)
    if one.state != "active" and one.closed != one.state:
        record.ended(name, one.ended_at or now, one.why if one.state == "revoked" else "")
        if failure is None:
            one = replace(one, closed=one.state)
            store.write(settings, one)
    if failure is not None:
        raise failure
    return one


def _closed(one: Applied, day: date) -> bool:
    """Return whether no end must be completed: the agreement is active, or its end is complete."""
    return not one.over(day) or (one.state != "active" and one.closed == one.state)
