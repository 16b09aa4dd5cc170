"""Ends an agreement before its last day, or records that its last day has passed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bus.errors import BusError, Stop
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import vendor_users
from bus.vendors.applied import Applied


def revoke(settings: Settings, name: str, why: str, now: datetime) -> Applied:
    """Revoke an agreement at once; return it as it is stored now.

    An agreement that is revoked already stays as it is, but its users are shut out again, in case
    that failed before. Raises `Stop` if no such agreement was applied.

    why: the reason, which is kept.
    now: the time, UTC.
    """
    applied = find(store.read(settings), name)
    if applied.state == "revoked":
        _shut_out(settings, applied)
        return applied
    revoked = replace(applied, state="revoked", ended_at=now, why=why)
    cut_off(settings, revoked)
    return revoked


def end(settings: Settings, applied: Applied, now: datetime) -> Applied:
    """Record that the last day of an agreement has passed; return it as it is stored now."""
    ended = replace(applied, state="ended", ended_at=now)
    cut_off(settings, ended)
    return ended


def cut_off(settings: Settings, applied: Applied) -> None:
    """Store that an agreement is over, and then shut out its vendor.

    The projection and all other ways out to vendors follow what is stored, so they stop first.

    applied: the agreement with its new state.

    Raises the errors of `bus.vendors.applied.write`. Raises `Stop` or `RetryLater` if the users
    could not be shut out. The state is stored then, and the same call may be made again.
    """
    store.write(settings, applied)
    _shut_out(settings, applied)


def _shut_out(settings: Settings, applied: Applied) -> None:
    """Shut out the users of an agreement, unless a renewal that is not over has them too."""
    day = store.today()
    if any(
        one.ids_name == applied.ids_name and one.name != applied.name and not one.over(day)
        for one in store.read(settings).values()
    ):
        return
    try:
        vendor_users.shut_out(settings, applied.ids_name)
    except BusError as error:
        raise type(error)(
            f"{applied.name} is stored as {applied.state}, and nothing more is written to its "
            f"topics; but its users are not shut out: {error}"
        ) from None


def find(applied: dict[str, Applied], name: str) -> Applied:
    """Return an applied agreement by name. Raises `Stop` if there is none."""
    if name not in applied:
        named = f"; the applied ones are: {', '.join(applied)}" if applied else ""
        raise Stop(f"no agreement {name} was applied{named}")
    return applied[name]
