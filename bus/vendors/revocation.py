"""Ends an agreement before its last day, or records that its last day has passed."""

from __future__ import annotations

from dataclasses import replace
from datetime import datetime

from bus.errors import Stop
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors.applied import Applied


def revoke(settings: Settings, name: str, why: str, now: datetime) -> Applied:
    """Revoke an agreement at once; return it as it is stored now.

    An agreement that is revoked already stays as it is. Raises `Stop` if no such agreement was
    applied.

    why: the reason, which is kept.
    now: the time, UTC.
    """
    applied = find(store.read(settings), name)
    if applied.state == "revoked":
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
    """Store that an agreement is over, so that its vendor receives nothing more.

    applied: the agreement with its new state. The projection and all other ways out to vendors
             follow what is stored.

    Raises the errors of `bus.vendors.applied.write`.
    """
    store.write(settings, applied)


def find(applied: dict[str, Applied], name: str) -> Applied:
    """Return an applied agreement by name. Raises `Stop` if there is none."""
    if name not in applied:
        named = f"; the applied ones are: {', '.join(applied)}" if applied else ""
        raise Stop(f"no agreement {name} was applied{named}")
    return applied[name]
