"""Revokes an agreement, and closes the access under an agreement that is over.

Kafka cannot close the connections of a user, but it checks the access rules at each request. So the
steps are:

1. Store the state, which stops the projection.
2. Remove the tokens of the gate.
3. Deny the vendor's users everything.
4. Delete the users. Their connections end when Kafka next asks for the password. The embedded bus
   asks within a minute.
"""

from __future__ import annotations

from collections.abc import Callable, Collection
from dataclasses import replace
from datetime import date, datetime

from bus.errors import BusError, Stop
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import narrowing, vendor_access, vendor_topics, written_editions
from bus.vendors.applied import Applied
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_access import Grant


def revoke(
    settings: Settings,
    name: str,
    why: str,
    now: datetime,
    say: Callable[[str], object] = lambda _: None,
) -> Applied:
    """Revoke an agreement at once; return it as it is stored now.

    If the agreement is revoked already, its state stays, and its access is closed once more.
    Raises `Stop` if no such agreement was applied, or if it has ended or is deleted.

    why: the reason, which is kept.
    now: the time, UTC.
    say: called with a sentence for each thing that the cluster's administrator must do.
    """
    applied = find(store.read(settings), name)
    if applied.state == "ended" or applied.deleted:
        raise Stop(f"{name} is over since {applied.last_day}: there is nothing to revoke")
    if applied.state == "revoked":
        notes = close_access(settings, applied)
    else:
        applied = replace(applied, state="revoked", ended_at=now, why=why)
        notes = cut_off(settings, applied)
    for note in notes:
        say(note)
    return applied


def cut_off(settings: Settings, applied: Applied) -> list[str]:
    """Store that an agreement is over, and close its vendor's access.

    The projection and all ways follow the stored state, so they stop before the access is closed.
    If the cluster does not let Schoolbus manage users, this returns what its administrator must do.

    Raises the errors of `bus.vendors.applied.write` and `close_access`.
    """
    store.write(settings, applied)
    return close_access(settings, applied)


def close_access(settings: Settings, over: Applied, day: date | None = None) -> list[str]:
    """Close the access under an agreement that is over.

    Returns what the cluster's administrator must do, one sentence each. A vendor with a renewal
    that is active today keeps its users, for the topics of the renewal.

    day: today, in the district's calendar; None: take it from the clock.

    Raises `Stop` or `RetryLater` if the access could not be closed. The state stays stored, and the
    same call may be made again.
    """
    try:
        return _close_access(settings, over, day or store.today())
    except BusError as error:
        raise type(error)(
            f"{over.name} is stored as {over.state}, and nothing more is written to its topics; "
            f"but its users are not shut out: {error}"
        ) from None


def _close_access(settings: Settings, over: Applied, day: date) -> list[str]:
    heirs = [
        one
        for one in store.read(settings).values()
        if one.ids_name == over.ids_name and one.name != over.name and one.active(day)
    ]
    for grant in grants(settings, heirs, day):
        vendor_access.restrict(settings, grant)
        return []
    return vendor_access.shut_out(settings, over.ids_name)


def grants(settings: Settings, running: Collection[Applied], day: date) -> list[Grant]:
    """Return what each vendor may read under all its agreements.

    A renewal that has not begun gives no right to read yet, because the topics have the data of the
    earlier agreement. While the topics show more than an agreement says, the grant is closed.

    Raises `RetryLater` if Kafka does not answer.
    """
    found: dict[str, set[str]] = {}
    narrowed = any(one.narrowed for one in running)
    written = written_editions.read_all(settings) if narrowed else {}
    closed: set[str] = set()
    for one in running:
        if "kafka" in one.agreement.ways and (one.active(day) or one.name == one.ids_name):
            scope = compile_scope(one.agreement)
            named = vendor_topics.topics_by_kind(settings, scope, one.ids_name)
            found.setdefault(one.ids_name, set()).update(named.values())
            if narrowing.unwritten(one, written):
                closed.add(one.ids_name)
    return [
        Grant(
            name,
            tuple(sorted(topics)),
            vendor_topics.group_prefix(settings, name),
            name in closed,
        )
        for name, topics in found.items()
    ]


def correct_access(settings: Settings, ids_name: str) -> None:
    """Let a vendor's existing users read what its agreements let them read now.

    An agreement that is over gives nothing, so this never opens what was closed at an end. Does
    nothing on a cluster whose users Schoolbus does not manage.

    Raises `Stop` or `RetryLater` if Kafka refuses or does not answer.
    """
    if not vendor_access.protected(settings):
        return
    done: list[Grant] | None = None
    while True:
        day = store.today()
        running = [
            one
            for one in store.read(settings).values()
            if one.ids_name == ids_name and not one.over(day)
        ]
        wanted = grants(settings, running, day)
        if wanted == done:
            return
        for grant in wanted:
            vendor_access.restrict(settings, grant)
        done = wanted  # another command may have changed an agreement meanwhile


def find(applied: dict[str, Applied], name: str) -> Applied:
    """Return an applied agreement by name. Raises `Stop` if there is none."""
    if name not in applied:
        named = f"; the applied ones are: {', '.join(applied)}" if applied else ""
        raise Stop(f"no agreement {name} was applied{named}")
    return applied[name]
