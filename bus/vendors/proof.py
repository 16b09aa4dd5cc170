"""The proofs of deletion after an agreement: the certificate, and the vendor's attestation.

The certificate says what the bus deleted of a vendor's data, and when. The attestation says that
the vendor deleted what it had received. The bus keeps both with the agreement in `PREFIX.vendors`
(`bus.vendors.applied`), so they are kept even if the home of the bus is lost. Neither has data
about students.

This module is pure: it does no I/O.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field, replace
from datetime import date, datetime
from typing import Any

from bus.vendors.disclosure_chain import ChainHead


@dataclass(frozen=True, slots=True)
class Holdings:
    """What the bus and Kafka hold for a vendor.

    topics:   the number of partitions of each topic, dead letters included.
    groups:   consumer groups.
    users:    Kafka users that exist or have access rules.
    rules:    the number of access rules (ACLs) of these users, allowing and denying.
    subjects: subjects of the schema registry.
    """

    topics: Mapping[str, int] = field(default_factory=dict)
    groups: tuple[str, ...] = ()
    users: tuple[str, ...] = ()
    rules: int = 0
    subjects: tuple[str, ...] = ()

    def __bool__(self) -> bool:
        return bool(self.topics or self.groups or self.users or self.rules or self.subjects)

    def with_more(self, other: Holdings) -> Holdings:
        """Return what is in these holdings or in the other ones, which were found later."""
        return Holdings(
            dict(sorted({**other.topics, **self.topics}.items())),
            tuple(sorted({*self.groups, *other.groups})),
            tuple(sorted({*self.users, *other.users})),
            max(self.rules, other.rules),
            tuple(sorted({*self.subjects, *other.subjects})),
        )

    def objects(self) -> dict[str, tuple[str, ...]]:
        """Return the names of everything, in the form of the record of disclosures."""
        return {
            "topics": tuple(self.topics),
            "groups": self.groups,
            "users": self.users,
            "subjects": self.subjects,
        }


@dataclass(frozen=True, slots=True)
class Certificate:
    """What the bus deleted of a vendor's data. It is stored before the deletion begins.

    begun_at:   when the deletion began, UTC.
    deleted:    what existed before. Once `deleted_at` is set, all of it is deleted.
    early:      the reason for a deletion before the agreed days; "" otherwise.
    kept_for:   the renewals that take over what this certificate does not list.
    by_others:  what the administrator of the cluster was asked to delete.
    deleted_at: when the bus had checked that nothing is left, UTC; None before that.
    record:     the head of the record of disclosures, after the entry of this deletion.
    """

    begun_at: datetime
    deleted: Holdings = Holdings()
    early: str = ""
    kept_for: tuple[str, ...] = ()
    by_others: tuple[str, ...] = ()
    deleted_at: datetime | None = None
    record: ChainHead = field(default_factory=ChainHead)

    def found(self, more: Holdings) -> Certificate:
        """Return the certificate with more holdings that were found."""
        return replace(self, deleted=self.deleted.with_more(more))

    def as_json(self) -> dict[str, Any]:
        """Return the certificate as JSON values."""
        gone = self.deleted
        return {
            "begunAt": self.begun_at.isoformat(),
            "deletedAt": self.deleted_at.isoformat() if self.deleted_at else None,
            "topics": dict(gone.topics),
            "groups": list(gone.groups),
            "users": list(gone.users),
            "rules": gone.rules,
            "subjects": list(gone.subjects),
            "early": self.early,
            "keptFor": list(self.kept_for),
            "byOthers": list(self.by_others),
            "record": {
                "number": self.record.number,
                "sha256": self.record.sha256,
                "at": self.record.at,
            },
        }


@dataclass(frozen=True, slots=True)
class Attestation:
    """What a vendor attested: that it deleted what it had received.

    by:       who attested it, at the vendor.
    on:       the day of the attestation.
    document: the SHA-256 of the signed document, in hexadecimal; "" if there is none.
    """

    by: str
    on: date
    document: str = ""

    def as_json(self) -> dict[str, Any]:
        """Return the attestation as JSON values."""
        return {"by": self.by, "on": self.on.isoformat(), "document": self.document}


def certificate_of(table: Mapping[str, Any] | None) -> Certificate | None:
    """Return the certificate that JSON values hold. Raises the errors of an invalid table."""
    if not table:
        return None
    deleted_at = table["deletedAt"]
    return Certificate(
        datetime.fromisoformat(table["begunAt"]),
        Holdings(
            dict(table["topics"]),
            tuple(table["groups"]),
            tuple(table["users"]),
            int(table["rules"]),
            tuple(table["subjects"]),
        ),
        table["early"],
        tuple(table["keptFor"]),
        tuple(table["byOthers"]),
        datetime.fromisoformat(deleted_at) if deleted_at else None,
        ChainHead(**table["record"]),
    )


def attestation_of(table: Mapping[str, Any] | None) -> Attestation | None:
    """Return the attestation that JSON values hold. Raises the errors of an invalid table."""
    if not table:
        return None
    return Attestation(table["by"], date.fromisoformat(table["on"]), table["document"])


def lines(certificate: Certificate) -> Iterable[str]:
    """Yield one line for each sort of thing that was deleted."""
    gone = certificate.deleted
    parts = sum(gone.topics.values())
    yield f"{len(gone.topics)} topics with {parts} partitions: {_named(gone.topics)}"
    yield f"{len(gone.groups)} consumer groups: {_named(gone.groups)}"
    yield f"{len(gone.users)} Kafka users with {gone.rules} access rules: {_named(gone.users)}"
    yield f"{len(gone.subjects)} subjects of the schema registry: {_named(gone.subjects)}"
    if certificate.kept_for:
        yield (
            "The key of the pseudonyms, in this agreement only: "
            f"{', '.join(certificate.kept_for)} takes it over, with the other topics, users and "
            "groups"
        )
    else:
        yield "The key of the pseudonyms"
    yield "The list of the students in the agreement, in the file of the projection"


def _named(names: Iterable[str]) -> str:
    return ", ".join(names) or "none"
