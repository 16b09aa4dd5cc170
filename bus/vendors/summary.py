"""Describes one agreement for people: for the privacy officer, and as a page for a school board.

Data is described in the categories of the agreement's own schedule. The text has no data about
students.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from datetime import date, timedelta

from bus.vendors.agreement import Agreement, Basis, Identifiers
from bus.vendors.applied import Applied
from bus.vendors.categories import ALWAYS, categories
from bus.vendors.scope import compile_scope

BASES = {
    Basis.SCHOOL_OFFICIAL: "the vendor does a school official's work (34 CFR 99.31(a)(1))",
    Basis.STUDIES: "a study for the district (34 CFR 99.31(a)(6))",
    Basis.AUDIT: "an audit or evaluation (34 CFR 99.31(a)(3))",
    Basis.CONSENT: "written consent (34 CFR 99.30)",
    Basis.DIRECTORY_INFORMATION: "directory information (34 CFR 99.37)",
}
IDS = {
    Identifiers.PSEUDONYMS: "The vendor receives pseudonyms in place of the district's ids. "
    "Another vendor cannot use them.",
    Identifiers.REAL: "The vendor receives the district's own ids.",
}


@dataclass(frozen=True, slots=True)
class Section:
    """A part of the description: a title, and its lines."""

    title: str
    lines: tuple[str, ...]


def sections(agreement: Agreement, applied: Applied | None, day: date) -> list[Section]:
    """Return the description of an agreement.

    applied: the agreement as it was applied; None if it was not.
    day:     today, in the district's calendar.
    """
    document = agreement.document
    found = [
        Section("State", (state(agreement, applied, day),)),
        Section(
            "Parties",
            (
                f"Vendor: {agreement.vendor}",
                f"Purpose: {agreement.purpose}",
                f"Legal basis: {BASES[agreement.basis]}",
                f"From {agreement.from_} until {agreement.until}",
                f"Document: {document.title} (SHA-256 {document.sha256})",
                f"Contact at the vendor: {agreement.contacts.vendor}",
                f"Contact at the district: {agreement.contacts.district}",
                *(
                    [f"It renews the agreement {agreement.renews} and takes over its ids."]
                    if agreement.renews
                    else []
                ),
            ),
        ),
        Section(
            "Companies to which the vendor gives the data",
            tuple(f"{one.name}: {one.purpose}" for one in agreement.subprocessors) or ("none",),
        ),
        Section("Data", tuple(_data(agreement))),
        Section("Students", tuple(_students(agreement))),
        Section("Ids", (IDS[agreement.identifiers],)),
        Section("Ways", tuple(_ways(agreement))),
        Section("Deletion", tuple(_deletion(agreement, applied))),
    ]
    if agreement.share.why:
        reasons = tuple(f"{name}: {why}" for name, why in agreement.share.why.items())
        found.insert(4, Section("Why the vendor needs this data", reasons))
    return found


def state(agreement: Agreement, applied: Applied | None, day: date) -> str:
    """Return the state of an agreement in words."""
    if applied is None:
        return "not applied: the vendor receives nothing"
    if applied.state == "revoked":
        when = f" on {applied.ended_at.date()}" if applied.ended_at else ""
        return f"revoked{when}: {applied.why}"
    if applied.over(day):
        return f"ended on {agreement.until}"
    if day < agreement.from_:
        return f"begins on {agreement.from_}; the vendor receives nothing before that day"
    left = (agreement.until - day).days
    return f"active; ends in {left} {'day' if left == 1 else 'days'}"


def text(found: Iterable[Section]) -> str:
    """Return a description as plain text for a terminal."""
    return "\n\n".join(
        "\n".join([section.title, *(f"  {line}" for line in section.lines)]) for section in found
    )


def markdown(agreement: Agreement, found: Iterable[Section]) -> str:
    """Return a description as one page of Markdown."""
    parts = [f"# Data that {escaped(agreement.vendor)} receives for {agreement.purpose}"]
    for section in found:
        lines = "\n".join(f"* {escaped(line)}" for line in section.lines)
        parts.append(f"## {section.title}\n\n{lines}")
    return "\n\n".join(parts) + "\n"


def _data(agreement: Agreement) -> Iterator[str]:
    flowing = {
        f"{kind}.{field}"
        for kind, scope in compile_scope(agreement).kinds.items()
        for field in scope.fields
        if field not in ALWAYS
    }
    for name in agreement.share.categories:
        fields = [field for field in categories().get(name, ()) if field in flowing]
        yield f"{name}: {_by_kind(fields) or 'nothing; the district has no such data on the bus'}"
    if single := [field for field in agreement.share.fields if field in flowing]:
        yield f"Single fields: {_by_kind(single)}"
    if agreement.share.without:
        yield f"Left out: {_by_kind(agreement.share.without)}"
    since = agreement.history or agreement.from_
    yield f"Attendance and results before {since} are not shared."
    if agreement.returns:
        yield f"The vendor may send to the district: {', '.join(agreement.returns)}"


def _by_kind(fields: Iterable[str]) -> str:
    found: dict[str, list[str]] = defaultdict(list)
    for field in fields:
        kind, _, name = field.partition(".")
        found[kind].append(name)
    return "; ".join(f"{kind} ({', '.join(names)})" for kind, names in found.items())


def _students(agreement: Agreement) -> Iterator[str]:
    students = agreement.students
    selectors = [
        *([f"of the schools {', '.join(students.schools)}"] if students.schools else []),
        *([f"in the grades {', '.join(students.grades)}"] if students.grades else []),
        *([f"enrolled in the classes {', '.join(students.classes)}"] if students.classes else []),
    ]
    which = f"Students {', and '.join(selectors)}" if selectors else "All students of the district"
    consent = " with a consent" if agreement.basis is Basis.CONSENT else ""
    yield f"{which}{consent}"
    others = {
        "teacher": "the teachers of the classes that are shared",
        "guardian": "the guardians of these students",
    }
    for role in agreement.roles:
        yield f"Also {others[role]}"
    yield "Except students with an opt-out that concerns this agreement, and protected students"
    days = students.leave_after
    yield (
        "A student who leaves is deleted at once."
        if days == 0
        else f"A student who leaves is shown as withdrawn for {days} days, and then deleted."
    )


def _ways(agreement: Agreement) -> Iterator[str]:
    names = {"kafka": "its own Kafka topics", "oneroster": "the OneRoster service"}
    for way in agreement.ways:
        yield f"By {names[way]}"
    if agreement.webhook:
        yield f"By webhook to {agreement.webhook.url}"
    if agreement.csv:
        yield f"As CSV files in {agreement.csv.folder}"


def _deletion(agreement: Agreement, applied: Applied | None) -> Iterator[str]:
    deletion = agreement.deletion
    last = applied.last_day if applied is not None else agreement.until
    certificate = applied.certificate if applied is not None else None
    if certificate is not None and certificate.deleted_at is not None:
        yield (
            f"The bus deleted the vendor's topics and keys on {certificate.deleted_at.date()}: see "
            f"`bus vendors certificate {agreement.name}`."
        )
    else:
        yield (
            f"The bus deletes the vendor's topics and keys {deletion.days} days after the end: on "
            f"{last + timedelta(days=deletion.days)}."
        )
    if applied is not None and applied.attestation is not None:
        yield f"The vendor attested its own deletion on {applied.attestation.on}."
    else:
        yield (
            "The vendor must attest its own deletion by "
            f"{last + timedelta(days=deletion.attestation_days)}, {deletion.attestation_days} days "
            "after the end."
        )


def escaped(line: str) -> str:
    """Return a line in which the special characters of Markdown are escaped."""
    return "".join(f"\\{sign}" if sign in "\\`*_[]<>#|" else sign for sign in line)
