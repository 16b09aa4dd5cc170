"""Applies agreements: topics, schemas, keys and the record of what was applied.

Every step finds what exists already, so a second run gives the same result, even after a crash. The
last step writes the entry in `PREFIX.vendors`. Before that, the vendor receives no data.

If the topics show more than a changed agreement says, the access is closed before that step
(`bus.vendors.narrowing`).
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from pathlib import Path
from typing import Any

from bus.errors import Stop
from bus.kafka import topics
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import (
    key_rotation,
    master_key,
    narrowing,
    pseudonyms,
    revocation,
    vendor_access,
    vendor_schema,
    vendor_topics,
    written_editions,
)
from bus.vendors.agreement import Agreement
from bus.vendors.applied import Applied, fingerprint
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.plan import PlannedChange
from bus.vendors.scope import Scope, compile_scope
from bus.vendors.vendor_access import Grant

UNPROTECTED = (
    "everybody who reaches this bus can read the vendors' topics: it has no users. See "
    "`bus up --secure`"
)


@dataclass(frozen=True, slots=True)
class VendorAccess:
    """What a vendor needs to subscribe.

    topics:      the topic of each kind.
    group:       the prefix of the vendor's consumer groups.
    bootstrap:   Kafka's address.
    registry:    the address of the gate, or of the schema registry on a bus without users; "" if
                 the gate never started.
    username:    the vendor's Kafka user; None on a bus without users.
    credentials: the file with the vendor's credentials; None on a bus without users.
    ca:          the file with the authority that signed the brokers' certificates; None without
                 TLS.
    notes:       what a person must do.
    """

    topics: dict[str, str]
    group: str
    bootstrap: str
    registry: str
    username: str | None = None
    credentials: str | None = None
    ca: str | None = None
    notes: tuple[str, ...] = ()

    def as_json(self) -> dict[str, Any]:
        """Return the access as JSON values."""
        return {
            "topics": self.topics,
            "group": self.group,
            "bootstrap": self.bootstrap,
            "registry": self.registry,
            "username": self.username,
            "credentials": self.credentials,
            "ca": self.ca,
        }


def apply(
    settings: Settings,
    changes: Iterable[PlannedChange],
    now: datetime,
    disclosures: DisclosureWriter,
    credentials: Path | None = None,
) -> dict[str, VendorAccess]:
    """Apply a plan; return the access of each agreement that has not ended, by name.

    Does nothing about an agreement that is over: see `bus.vendors.expiry`.

    Raises `Stop` if the master key does not open the keys of earlier agreements, or if Kafka or the
    registry refuses something. Raises `RetryLater` if one of them does not answer.

    now:         the time, UTC.
    disclosures: records each new scope before it takes effect.
    credentials: the folder for the vendors' credentials; None: make no users.
    """
    # An agreement begins after the one that it renews, so it comes later in this order.
    changes = sorted(changes, key=lambda one: (_begins(one), one.name))
    applied = {one.name: one.before for one in changes if one.before is not None}
    keys = [one.wrapped_key for one in applied.values() if one.wrapped_key]
    masters = master_key.read_or_make(settings, needed=bool(keys))
    for key in keys:
        pseudonyms.unwrapped(key, masters)
    for change in changes:
        if change.action == "new" and change.agreement is not None:
            applied[change.name] = _first(change.agreement, applied, masters[0], now)
        elif change.action == "changed" and change.agreement is not None:
            applied[change.name] = replace(
                applied[change.name],
                agreement=change.agreement,
                applied_at=now,
                fingerprint=fingerprint(change.agreement),
            )
    _mark_narrowed(settings, changes, applied)
    running = [applied[one.name] for one in changes if one.action not in ("ended", "over")]
    found = _provide(settings, running, {one.name for one in changes if one.action == "unchanged"})
    given: list[Grant] = []
    if vendor_access.protected(settings):
        given = revocation.grants(settings, running, store.today())
        found = _with_users(settings, running, found, given, credentials)
    for one in changes:
        if one.action in ("new", "changed"):
            scope = compile_scope(applied[one.name].agreement)
            disclosures.scope_changed(applied[one.name], scope, now)
    if written := [applied[one.name] for one in changes if applied[one.name] != one.before]:
        store.write(settings, *written)
        key_rotation.keep_up(settings, masters)
    _close_again(settings, running, given)
    return found


def _mark_narrowed(
    settings: Settings, changes: Iterable[PlannedChange], applied: dict[str, Applied]
) -> None:
    """Set `narrowed` where it must be set.

    A change of an agreement may also narrow a renewal of it that has not begun.
    """
    day, written = store.today(), written_editions.read_all(settings)
    for change in changes:
        one, before = applied[change.name], change.before
        if one.over(day):
            continue
        narrowed = narrowing.narrowed(one, before, applied.values(), written, day)
        if one != before:
            applied[one.name] = replace(one, narrowed=narrowed)
        elif narrowed and one.agreement.from_ > day:
            applied[one.name] = replace(one, narrowed=True)


def _close_again(settings: Settings, running: Iterable[Applied], given: Iterable[Grant]) -> None:
    """Close the access of agreements that were revoked or narrowed while they were applied.

    given: the grants that the vendors got. `bus vendors run` may have opened a closed one, or may
           have written the topics before it was closed.
    """
    stored = store.read(settings)
    for one in running:
        if (now := stored.get(one.name)) is not None and now.state != "active":
            revocation.close_access(settings, now)
    if given:
        day = store.today()
        active = [one for one in stored.values() if not one.over(day)]
        wanted = revocation.grants(settings, active, day)
        for grant in given:
            if grant.closed or grant not in wanted:
                revocation.correct_access(settings, grant.ids_name)


def _begins(change: PlannedChange) -> str:
    agreement = change.agreement or (change.before and change.before.agreement)
    return agreement.from_.isoformat() if agreement else ""


def _first(
    agreement: Agreement, applied: dict[str, Applied], master: bytes, now: datetime
) -> Applied:
    """Return an agreement as it is applied first. A renewal takes over the names and the key."""
    renewed = applied.get(agreement.renews) if agreement.renews else None
    if agreement.renews and renewed is None:
        raise Stop(f"{agreement.name} renews {agreement.renews}, which was never applied")
    if renewed is not None and not renewed.wrapped_key:
        raise Stop(
            f"{agreement.name} renews {renewed.name}, whose topics and key are deleted, so nothing "
            "can be taken over from it; leave `renews` out"
        )
    new = Applied(
        agreement=agreement,
        state="active",
        ids_name=renewed.ids_name if renewed else agreement.name,
        wrapped_key=b"" if renewed else pseudonyms.wrapped(pseudonyms.new_key(), master),
        applied_at=now,
        fingerprint=fingerprint(agreement),
    )
    return store.with_keys_of(new, renewed) if renewed else new


def _provide(
    settings: Settings, running: Sequence[Applied], unchanged: Collection[str]
) -> dict[str, VendorAccess]:
    """Create the topics and schemas of agreements, as far as they are missing."""
    bootstrap, registry = _addresses(settings)
    scopes = {
        one.name: (compile_scope(one.agreement), one.ids_name)
        for one in running
        if one.agreement.flows
    }
    by_kafka = {one.name for one in running if "kafka" in one.agreement.ways}
    names = {
        name: vendor_topics.topics_by_kind(settings, *about)
        for name, about in sorted(scopes.items())
    }
    if missing := list(dict.fromkeys(t for named in names.values() for t in named.values())):
        topics.ensure(settings, missing)
    for name, (scope, ids_name) in scopes.items():
        if name not in unchanged or not _registered(settings, ids_name, scope):
            vendor_schema.register(settings, ids_name, scope)
    return {
        one.name: VendorAccess(
            names.get(one.name, {}) if one.name in by_kafka else {},
            vendor_topics.group_prefix(settings, one.ids_name),
            bootstrap,
            registry,
        )
        for one in sorted(running, key=lambda one: one.name)
    }


def _with_users(
    settings: Settings,
    running: Sequence[Applied],
    found: dict[str, VendorAccess],
    wanted: Iterable[Grant],
    credentials: Path | None,
) -> dict[str, VendorAccess]:
    """Return the access of vendors on a bus with users. Make the missing users first."""
    provided = vendor_access.provide(settings, wanted, credentials)
    bootstrap, registry = vendor_access.addresses(settings)
    for one in running:
        if (given := provided.get(one.ids_name)) is not None:
            found[one.name] = replace(
                found[one.name],
                bootstrap=bootstrap,
                registry=registry,
                username=given.username,
                credentials=str(given.credentials) if given.credentials else None,
                ca=str(given.ca) if given.ca else None,
                notes=given.notes,
            )
    return found


def _registered(settings: Settings, ids_name: str, scope: Scope) -> bool:
    """Return whether all schemas are registered, which is faster to find than to register them."""
    try:
        vendor_schema.lookup(settings, ids_name, scope)
    except Stop:
        return False
    return True


def _addresses(settings: Settings) -> tuple[str, str]:
    """Return the addresses of Kafka and of the registry."""
    if not settings.embedded:
        return settings.kafka.bootstrap, settings.registry.url
    from bus.local import reach

    ends = reach(settings.home)
    return ends.bootstrap, settings.registry.url or ends.registry
