"""Deletes what the bus has for a vendor, the agreed number of days after the agreement's end.

It deletes the topics and their dead letters, the consumer groups, the users with their rules and
quotas, the subjects of the registry, the key of the pseudonyms, and the students in the file of the
projection. What a renewal shares with the agreement stays, because the renewal takes it over.

The bus first stores a list of everything as a certificate (`bus.vendors.proof`), and then deletes
it. Each step skips what does not exist. So an interrupted deletion starts again from the beginning,
and its certificate is still complete. At the end, the bus checks that nothing is left.
"""

from __future__ import annotations

import sqlite3
from collections.abc import Collection, Iterable
from contextlib import closing
from dataclasses import replace
from datetime import date, datetime
from pathlib import Path
from shutil import rmtree

from bus.errors import RetryLater, Stop
from bus.kafka import removal
from bus.registry import subjects
from bus.settings import Settings
from bus.vendors import applied as store
from bus.vendors import revocation, shard, vendor_access, vendor_topics
from bus.vendors.applied import Applied
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_view import connected, forget_agreement
from bus.vendors.outbox_rows import OutboxRows
from bus.vendors.proof import Certificate, Holdings
from bus.vendors.scope import compile_scope
from bus.vendors.vendor_access import Grant


def due(one: Applied, day: date) -> bool:
    """Return whether an agreement must be deleted now: the agreed days after its end have passed.

    A deletion that has begun is due until it is complete. A complete one is not due again.
    """
    begun = one.certificate is not None
    return one.over(day) and not one.deleted and (begun or day >= one.deletion_day)


def delete(
    settings: Settings, name: str, now: datetime, record: DisclosureWriter, *, early: str = ""
) -> Applied:
    """Delete what the bus has for a vendor under an agreement; return the agreement as stored now.

    If everything is deleted already, nothing changes.

    now:    the time, UTC.
    record: the record of disclosures, which gets an entry with what was deleted.
    early:  the reason for a deletion before the agreed days have passed; "" if they have passed.

    Raises `Stop` if the agreement is active, or if Kafka or the registry refuses something. Raises
    `RetryLater` if one of them does not answer, or if a program still reads; the same call then
    continues the deletion.
    """
    stored = store.read(settings)
    one = revocation.find(stored, name)
    if one.state == "active":
        raise Stop(f"{name} is active: end it first with `bus vendors revoke {name} --why TEXT`")
    if one.deleted:
        return one
    heirs = _heirs(one, stored.values())
    kept = _topics_of(settings, heirs)
    found = _holdings(settings, one, kept, bool(heirs))
    certificate = one.certificate or Certificate(now, early=early)
    certificate = replace(certificate.found(found), kept_for=tuple(h.name for h in heirs))
    one = replace(one, certificate=certificate)
    store.write(settings, one)
    notes = [] if heirs else vendor_access.remove(settings, _grant(settings, one, certificate))
    removal.delete_topics(settings, list(found.topics))
    removal.delete_groups(settings, found.groups)
    subjects.delete(settings, found.subjects)
    _forget_students(settings, name)
    if not heirs:
        _forget_indexes(settings, one.ids_name)
    if left := _holdings(settings, one, kept, bool(heirs)):
        names = [name for names in left.objects().values() for name in names]
        raise RetryLater(
            f"{name} is not deleted yet: {', '.join(names)} still exist; run the command again"
        )
    if one.agreement.csv is not None and not heirs:
        notes.append(
            f"Delete the folder {one.agreement.csv.folder}, where `bus consume oneroster-csv` "
            "wrote the sets and keeps its own state."
        )
    record.deleted(name, now, certificate.deleted.objects())
    certificate = replace(certificate, by_others=tuple(notes), deleted_at=now, record=record.head())
    one = replace(one, certificate=certificate, wrapped_key=b"", earlier_key=b"", next_key=b"")
    store.write(settings, one)
    return one


def _heirs(one: Applied, applied: Iterable[Applied]) -> list[Applied]:
    """Return the other agreements of the chain that are not deleted. What they use must stay."""
    return [
        other
        for other in applied
        if other.ids_name == one.ids_name and other.name != one.name and not other.deleted
    ]


def _grant(settings: Settings, one: Applied, certificate: Certificate) -> Grant:
    """Return the vendor's right to read the topics that are deleted now."""
    own = vendor_topics.group_prefix(settings, one.ids_name)
    topics = tuple(name for name in certificate.deleted.topics if name.startswith(own))
    return Grant(one.ids_name, topics, own)


def _topics_of(settings: Settings, heirs: Iterable[Applied]) -> set[str]:
    return {
        topic
        for heir in heirs
        for topic in vendor_topics.topics_by_kind(
            settings, compile_scope(heir.agreement), heir.ids_name
        ).values()
    }


def _holdings(settings: Settings, one: Applied, kept: Collection[str], renewed: bool) -> Holdings:
    """Return what the bus and Kafka hold for a vendor, without what its renewals need.

    kept:    the topics of the renewals.
    renewed: whether there are renewals. They need the users, the groups and the dead letters.
    """
    own = settings.topic(f"vendor.{one.ids_name}")
    roots = [own] if renewed else vendor_topics.roots(settings, one.ids_name)
    topics = removal.topics(settings, roots)
    names = subjects.names(settings, f"{own}.")
    users, rules = ((), 0) if renewed else vendor_access.holdings(settings, one.ids_name)
    return Holdings(
        {name: parts for name, parts in topics.items() if name not in kept},
        () if renewed else tuple(removal.groups(settings, roots)),
        users,
        rules,
        tuple(name for name in names if name.removesuffix("-value") not in kept),
    )


def _forget_indexes(settings: Settings, ids_name: str) -> None:
    """Delete what the ways keep in the home: indexes, and the state of the vendor's endpoint.

    See `bus.consume.feed.Feed.folder` and `bus.delivery.Terms.agreement`.

    Raises `Stop` if they cannot be deleted.
    """
    roots = vendor_topics.roots(settings, ids_name)
    where = settings.home / "standing"
    indexes = sorted(where.iterdir()) if where.is_dir() else []
    found = [folder for folder in indexes if removal.is_under(folder.name, roots)]
    endpoint = settings.home / "products" / "agreements" / ids_name
    for folder in [*found, *([endpoint] if endpoint.is_dir() else [])]:
        try:
            rmtree(folder)
        except OSError as error:
            raise Stop(
                f"{folder} cannot be deleted ({error.strerror}); correct its owner, and run the "
                "command again"
            ) from None


def _forget_students(settings: Settings, name: str) -> None:
    """Delete the rows of an agreement in the projection's files, if this machine has some.

    Raises `RetryLater` if the file cannot be written.
    """
    for file in shard.files(settings):
        _forget_in(file, name)


def _forget_in(file: Path, name: str) -> None:
    try:
        with closing(connected(file)) as con:
            con.execute("BEGIN IMMEDIATE")
            if con.execute("SELECT 1 FROM sqlite_master WHERE name = 'disclosed'").fetchone():
                # `DistrictView` creates all tables at once.
                forget_agreement(con, name)
                con.execute("DELETE FROM disclosed WHERE agreement = ?", [name])
                OutboxRows(con).forget(name)
            con.execute("COMMIT")
    except sqlite3.Error as error:
        raise RetryLater(
            f"the students of {name} cannot be deleted from {file} ({error}); run the command again"
        ) from None
