"""Answers questions from the record of disclosures.

    by_student  what was disclosed about one student: for a parent (34 CFR 99.32(a)(1))
    by_vendor   what one vendor received: for an auditor
    held        what one vendor held at a time: for the morning after a breach
    inside      who is in an agreement now: for the projection

The functions read the entries in the order of the chain. Data about a student is disclosed under an
agreement from `entered` to `left`, or to the end of the agreement. If the scope changes in between,
the answer has a part for each scope.

This module is pure: it does no I/O, and it has no clock.
"""

from __future__ import annotations

from collections.abc import Collection, Iterable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from itertools import groupby
from typing import Any, Literal

from bus.vendors.disclosed_students import DisclosedStudents
from bus.vendors.disclosure_chain import Entry

Question = Literal["student", "vendor", "held"]
NOT_SHARED = ("what", "number", "previous", "at", "fingerprint")
"""Keys of a scope's entry that say nothing about what is shared."""
NO_SCOPE: Entry = {}
"""For students who entered before any scope was recorded."""


@dataclass(frozen=True, slots=True)
class Disclosure:
    """What one vendor received about one student, for a time in which it was the same.

    student:     the student's id; "" if the student was erased from the record.
    vendor:      the company.
    agreement:   the name of the agreement.
    purpose:     as the agreement says it.
    basis:       the legal basis, such as "school-official".
    document:    the SHA-256 of the signed document.
    identifiers: "pseudonyms" or "real".
    categories:  the categories of the agreement's schedule.
    fields:      the shared fields, by kind.
    from_:       since when, UTC.
    to:          until when, UTC; None: the vendor still receives data.
    """

    student: str
    vendor: str
    agreement: str
    purpose: str
    basis: str
    document: str
    identifiers: str
    categories: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]
    from_: datetime
    to: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "student": self.student,
            "vendor": self.vendor,
            "agreement": self.agreement,
            "purpose": self.purpose,
            "basis": self.basis,
            "document": self.document,
            "identifiers": self.identifiers,
            "categories": list(self.categories),
            "fields": {kind: list(names) for kind, names in self.fields.items()},
            "from": self.from_.isoformat(),
            "to": self.to.isoformat() if self.to else None,
        }


@dataclass(frozen=True, slots=True)
class Holding:
    """What a vendor held about one student at a time.

    student:    the student's id; "" if the student was erased from the record.
    agreements: under which agreements; more than one after a renewal.
    categories: all categories that the vendor had received until then.
    fields:     all fields that it had received until then, by kind.
    from_:      when it first received data about the student, UTC.
    to:         when it last received some, UTC; None: it still received data at that time.
    """

    student: str
    agreements: tuple[str, ...]
    categories: tuple[str, ...]
    fields: Mapping[str, tuple[str, ...]]
    from_: datetime
    to: datetime | None

    def as_json(self) -> dict[str, Any]:
        """Return it for `--json`."""
        return {
            "student": self.student,
            "agreements": list(self.agreements),
            "categories": list(self.categories),
            "fields": {kind: list(names) for kind, names in self.fields.items()},
            "from": self.from_.isoformat(),
            "to": self.to.isoformat() if self.to else None,
        }


@dataclass(frozen=True, slots=True)
class _Span:
    """A time in which the vendor received the same data about one student under one agreement."""

    agreement: str
    scope: Entry
    student: str  # the commitment
    from_: datetime
    to: datetime | None


def by_student(entries: Iterable[Entry], students: DisclosedStudents, id_: str) -> list[Disclosure]:
    """Return what was disclosed about a student, by agreement and time.

    entries:  the record, in order.
    students: the table of students.
    id_:      the student's id. Empty list: nothing was disclosed, or the student was erased.
    """
    named = dict.fromkeys(students.commitments(id_), id_)
    return _sorted(_spans(entries, students=named), named)


def by_vendor(
    entries: Iterable[Entry], students: DisclosedStudents, vendor: str
) -> list[Disclosure]:
    """Return what was disclosed to a vendor, by agreement, scope and student.

    vendor: the company, or the name of one agreement. Capital letters do not matter.
    """
    entries = list(entries)
    named = students.by_commitment()
    return _sorted(_spans(entries, agreements=agreements_of(entries, vendor)), named)


def held(
    entries: Iterable[Entry],
    students: DisclosedStudents,
    name: str,
    at: datetime,
    until: datetime | None = None,
) -> list[Holding]:
    """Return what a vendor held at a time, by student.

    That is more than it received at that time. Data counts as held until the vendor attests that it
    has deleted the data, even if the student has left or the agreement has ended. An attestation
    covers the disclosures that had ended when it was made. The agreements that this one renews are
    included.

    name:  the name of the agreement.
    at:    the time, UTC.
    until: with it, what the vendor held at any moment from `at` to `until`.
    """
    entries = list(entries)
    last = until or at
    family = _renewed(entries, name)
    attested = {
        agreement: max(
            (
                moment
                for entry in entries
                if entry["what"] == "attested"
                and agreement in _renewed(entries, entry["agreement"])
                and (moment := _moment(entry)) <= at
            ),
            default=None,
        )
        for agreement in family
    }
    kept: dict[str, list[_Span]] = {}
    for span in _spans(entries, agreements=family):
        deleted = attested[span.agreement]
        gone = deleted is not None and span.to is not None and span.to <= deleted
        if span.from_ <= last and not gone:
            kept.setdefault(span.student, []).append(span)
    named = students.by_commitment()
    found = [_holding(named.get(one, ""), spans, last) for one, spans in kept.items()]
    return sorted(found, key=lambda one: (one.student == "", one.student, one.from_))


def inside(entries: Iterable[Entry], students: DisclosedStudents, name: str) -> set[str]:
    """Return the students who are in an agreement at the end of the record.

    A projection that starts with an empty cache compares them with its cohort, and records who has
    left since. Students who were erased are left out.

    name: the name of the agreement.
    """
    named = students.by_commitment()
    spans = _spans(entries, agreements={name})
    return {named[one.student] for one in spans if one.to is None and one.student in named}


def agreements_of(entries: Iterable[Entry], vendor: str) -> set[str]:
    """Return the names of a vendor's agreements in the record.

    vendor: the company, or the name of one agreement. Capital letters do not matter.
    """
    wanted = vendor.strip().casefold()
    return {
        entry["agreement"]
        for entry in entries
        if entry["what"] == "scope"
        and wanted in (entry["agreement"].casefold(), entry["vendor"].strip().casefold())
    }


def history_of(entries: Iterable[Entry], agreements: Collection[str]) -> list[Entry]:
    """Return the entries about new ids, the end and the deletion of agreements."""
    wanted = ("rekeyed", "ended", "revoked", "deleted", "attested")
    return [
        entry for entry in entries if entry["what"] in wanted and entry["agreement"] in agreements
    ]


def accesses(entries: Iterable[Entry]) -> list[Entry]:
    """Return who asked the record what, and who erased students from it."""
    return [entry for entry in entries if entry["what"] in ("access", "erased")]


def periods_json(disclosures: Iterable[Disclosure]) -> list[dict[str, Any]]:
    """Return disclosures for `--json`, with what the students of a scope have in common once."""

    def shared(one: Disclosure) -> dict[str, Any]:
        return {
            name: value
            for name, value in one.as_json().items()
            if name not in ("student", "from", "to")
        }

    found = []
    for about, group in groupby(disclosures, key=shared):
        students = [
            {name: one.as_json()[name] for name in ("student", "from", "to")} for one in group
        ]
        found.append({**about, "students": students})
    return found


def _spans(
    entries: Iterable[Entry],
    *,
    agreements: Collection[str] | None = None,
    students: Collection[str] | None = None,
) -> Iterator[_Span]:
    """Yield the times of disclosure, of these agreements and students only.

    students: commitments.
    """
    scopes: dict[str, Entry] = {}
    inside: dict[str, dict[str, datetime]] = {}  # by agreement: commitment -> since when

    def end(agreement: str, one: str, at: datetime) -> _Span | None:
        since = inside.get(agreement, {}).pop(one, None)
        if since is None:
            return None
        # Clocks differ, but the order of the chain counts. A disclosure never ends before it began.
        return _Span(agreement, scopes.get(agreement, NO_SCOPE), one, since, max(at, since))

    for entry in entries:
        what, agreement = entry["what"], entry.get("agreement", "")
        if agreements is not None and agreement not in agreements:
            continue
        if what == "scope":
            before = scopes.get(agreement)
            if before is not None and _shared(before) == _shared(entry):
                continue
            at = _moment(entry)
            for one in list(inside.get(agreement, ())) if before is not None else ():
                if span := end(agreement, one, at):
                    yield span
                    inside[agreement][one] = max(at, span.from_)
            scopes[agreement] = entry
        elif what == "entered":
            at, now_inside = _moment(entry), inside.setdefault(agreement, {})
            for one in _chosen(entry, students):
                now_inside.setdefault(one, at)
        elif what == "left":
            at = _moment(entry)
            for one in _chosen(entry, students):
                if span := end(agreement, one, at):
                    yield span
        elif what in ("ended", "revoked"):
            at = _moment(entry)
            for one in list(inside.get(agreement, ())):
                if span := end(agreement, one, at):
                    yield span
    for agreement, now_inside in inside.items():
        for one, since in now_inside.items():
            yield _Span(agreement, scopes.get(agreement, NO_SCOPE), one, since, None)


def _sorted(spans: Iterable[_Span], named: Mapping[str, str]) -> list[Disclosure]:
    """Return disclosures by agreement, scope, student and time."""

    def order(span: _Span) -> tuple[str, int, str, datetime]:
        student = named.get(span.student, "")
        return span.agreement, span.scope.get("number", 0), student, span.from_

    return [_disclosure(one, named.get(one.student, "")) for one in sorted(spans, key=order)]


def _disclosure(span: _Span, student: str) -> Disclosure:
    scope = span.scope
    return Disclosure(
        student,
        scope.get("vendor", ""),
        span.agreement,
        scope.get("purpose", ""),
        scope.get("basis", ""),
        scope.get("document", ""),
        scope.get("identifiers", ""),
        tuple(scope.get("categories", ())),
        {kind: tuple(names) for kind, names in scope.get("fields", {}).items()},
        span.from_,
        span.to,
    )


def _holding(student: str, spans: list[_Span], last: datetime) -> Holding:
    """Return what a vendor held after several times of disclosure."""
    fields: dict[str, dict[str, None]] = {}
    for span in spans:
        for kind, names in span.scope.get("fields", {}).items():
            fields.setdefault(kind, {}).update(dict.fromkeys(names))
    ends = [span.to for span in spans if span.to is not None and span.to <= last]
    return Holding(
        student,
        tuple(dict.fromkeys(span.agreement for span in spans)),
        tuple(dict.fromkeys(one for span in spans for one in span.scope.get("categories", ()))),
        {kind: tuple(names) for kind, names in fields.items()},
        min(span.from_ for span in spans),
        max(ends) if len(ends) == len(spans) else None,
    )


def _renewed(entries: Iterable[Entry], name: str) -> set[str]:
    """Return an agreement's name, and the names of those that it renews, directly or not."""
    renews = {
        entry["agreement"]: entry.get("renews", "") for entry in entries if entry["what"] == "scope"
    }
    found = {name}
    while (name := renews.get(name, "")) and name not in found:
        found.add(name)
    return found


def _chosen(entry: Entry, students: Collection[str] | None) -> Iterable[str]:
    named: list[str] = entry["students"]
    return named if students is None else [one for one in named if one in students]


def _shared(scope: Entry) -> dict[str, Any]:
    return {key: value for key, value in scope.items() if key not in NOT_SHARED}


def _moment(entry: Entry) -> datetime:
    return datetime.fromisoformat(entry["at"])
