"""Which column of a file is which field of the standard.

OneRoster 1.1 and 1.2 CSV Binding fix names and order of columns; vendors vary both. A name is
matched without regard to case, spaces, hyphens and underscores, then by the names of other versions
of the standard, then as misspelt by one letter where only one field can be meant.
"""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from difflib import SequenceMatcher, get_close_matches
from types import MappingProxyType

from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode

ALIASES: Mapping[str, Mapping[str, str]] = {
    "courses": {"schoolyearid": "schoolYearSourcedId", "grade": "grades"},
    "classes": {"termsourcedid": "termSourcedIds", "grade": "grades", "period": "periods"},
    "users": {
        "orgsourcedid": "orgSourcedIds",
        "agents": "agentSourcedIds",
        "userid": "userIds",
        "grade": "grades",
        "preferredgivenname": "preferredFirstName",
        "preferredfamilyname": "preferredLastName",
    },
    "demographics": {"usersourcedid": "sourcedId"},
}
"""Names that other versions of OneRoster have for a field, and 1.2's CSV where it is not REST's."""

IGNORED: Mapping[str, frozenset[str]] = {
    "users": frozenset({"password", "resourcesourcedids", "userprofilesourcedid"}),
    "courses": frozenset({"resourcesourcedids"}),
    "classes": frozenset({"resourcesourcedids"}),
    "lineItems": frozenset({"academicsessionsourcedid", "scorescalesourcedid"}),
    "results": frozenset({"scorescalesourcedid", "inprogress", "incomplete", "late", "missing"}),
    "roles": frozenset({"datelastmodified", "userprofilesourcedid", "begindate", "enddate"}),
}
"""Columns of OneRoster that the standard does not have; a password is never read."""

ROLE_FIELDS = ("sourcedId", "status", "userSourcedId", "roleType", "role", "orgSourcedId")

PLAIN_NAME = r"[A-Za-z][A-Za-z_. -]{0,39}"
"""What a name of a column looks like, so that it may be told."""

KNOWN_SHARE = 4
"""Of so many columns at most one may be unknown, for a line to be surely a header."""

LIKE = 0.6
"""How like a field's name a column's must be to be told as perhaps meant (difflib's ratio)."""

SHORTEST_MISSPELT = 5
"""Shorter names differ by one letter from too many others."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of the standard.

    name:   without .csv.
    kinds:  the kinds of record that its rows become.
    fields: what is read of it, by the standard's names.
    key:    the field without which a row says nothing.
    """

    name: str
    kinds: tuple[str, ...]
    fields: tuple[str, ...]
    key: str = "sourcedId"

    @property
    def kind(self) -> str:
        """The kind of its rows, or "" where that is told only by a row's role."""
        return self.kinds[0] if len(self.kinds) == 1 else ""


def _file(name: str, *kinds: str) -> File:
    fields = dict.fromkeys(field for kind in kinds for field in KINDS[kind].fields)
    return File(name, kinds, tuple(fields))


FILES: Mapping[str, File] = MappingProxyType(
    {
        file.name.lower(): file
        for file in (
            _file("orgs", "org"),
            _file("academicSessions", "academicSession"),
            _file("courses", "course"),
            _file("classes", "class"),
            _file("users", "student", "staff", "guardian"),
            File("roles", (), ROLE_FIELDS, key="userSourcedId"),
            _file("demographics", "demographics"),
            _file("enrollments", "enrollment"),
            _file("lineItems", "lineItem"),
            _file("results", "result"),
            _file("attendance", "attendance"),
        )
    }
)
"""The files that are read, by name in lower case. attendance.csv is this bus's own addition."""

UNREAD = frozenset(
    (
        "manifest categories resources classresources courseresources userresources userprofiles "
        "scorescales lineitemscorescales lineitemlearningobjectiveids resultscorescales "
        "resultlearningobjectiveids"
    ).split()
)
"""Files of OneRoster that hold nothing of the standard."""


@dataclass(frozen=True, slots=True)
class Note:
    """Something about a column: `field` as the standard names it, or its place ("column 3")."""

    field: str
    value_class: str
    reason: str
    code: FaultCode


@dataclass(frozen=True, slots=True)
class Match:
    """positions: for each field that the file has, its column, from 0. width: how many columns."""

    positions: Mapping[str, int]
    width: int
    notes: Sequence[Note]


def match(file: File, header: Sequence[str]) -> Match:
    """Find the fields of a file in its header.

    A header may be damaged and run on into somebody's data. So a name that is not known is
    repeated only when the rest of the line is a header of OneRoster's; else such a column is told
    by its place alone.
    """
    names = [normal(name) for name in header]
    fields = {normal(field): field for field in file.fields}
    aliases = ALIASES.get(file.name, {})
    ignored = IGNORED.get(file.name, frozenset())
    found: dict[str, int] = {}
    notes: list[Note] = []
    unknown: list[int] = []
    exact = {fields[name] for name in names if name in fields}
    for at, name in enumerate(names):
        field = fields.get(name)
        if field is None and aliases.get(name) not in exact:
            field = aliases.get(name)
        if field is None:
            if name and name not in ignored and not name.startswith("metadata."):
                unknown.append(at)
        elif field in found:
            reason = f"column {at + 1} is a second {field}; it was not read"
            notes.append(Note(field, "", reason, FaultCode.REPEATED_COLUMN))
        else:
            found[field] = at
    misspelt = _misspelt([(at, names[at]) for at in unknown], set(file.fields) - found.keys())
    sure = _is_header(header, unknown)

    def told(at: int) -> str:
        return f"column {at + 1}" + (f", '{header[at].strip()}'," if sure else "")

    for at in unknown:
        if (field := misspelt.get(at)) is not None:
            found[field], code = at, FaultCode.MISSPELT_COLUMN
            reason = f"{told(at)} is misspelt; it was read as {field}"
        else:
            field, code = f"column {at + 1}", FaultCode.UNKNOWN_COLUMN
            reason = f"{told(at)} is none of OneRoster's; it was not read"
        notes.append(Note(field, f"a name of {len(header[at])} characters", reason, code))
    left = {at: names[at] for at in unknown if at not in misspelt} if sure else {}
    for field in _required(file):
        if field not in found and (meant := _meant(field, left)) is not None:
            reason = f"has no column {field}; its {told(meant)} may be meant"
            notes.append(Note(field, "", reason, FaultCode.MISSING_COLUMN))
    return Match(found, _width(names), notes)


def _is_header(header: Sequence[str], unknown: Sequence[int]) -> bool:
    """Whether a line is surely a header of OneRoster's, though some of its names are not known.

    A line that runs on into a row has about as many names that are not known as names that are,
    or has empty ones.
    """
    plain = all(re.fullmatch(PLAIN_NAME, header[at].strip()) for at in unknown)
    return plain and all(map(str.strip, header)) and len(header) > KNOWN_SHARE * len(unknown)


def _required(file: File) -> Iterator[str]:
    """The fields without which no row makes a record; but who a user is, roles.csv may say."""
    for name in file.fields if file.kinds else ():
        needed = all(_must_have(kind, name) for kind in file.kinds)
        if needed and name not in (file.key, "role"):
            yield name


def _must_have(kind: str, name: str) -> bool:
    """Whether a record of this kind has no value of its own for a field that is empty."""
    field = next((one for one in KINDS[kind].schema["fields"] if one["name"] == name), None)
    if field is None or "default" in field:
        return False
    return not (isinstance(field["type"], dict) and "default" in field["type"])


def _meant(field: str, unknown: Mapping[int, str]) -> int | None:
    """The column that may be meant by a field; None where none is like it."""
    near = get_close_matches(normal(field), unknown.values(), n=1, cutoff=LIKE)
    return next((at for at, name in unknown.items() if [name] == near), None)


def normal(name: str) -> str:
    """A name without what does not count: case, spaces, hyphens, underscores."""
    return re.sub(r"[\s_\-]+", "", name.strip("\ufeff")).casefold()


def _width(names: Sequence[str]) -> int:
    """How many columns there are, without nameless ones at the end."""
    width = len(names)
    while width and not names[width - 1]:
        width -= 1
    return width


def _misspelt(unknown: Sequence[tuple[int, str]], missing: Iterable[str]) -> dict[int, str]:
    """The one field that each unknown column can mean, where no other column can mean it."""
    near = {
        at: [field for field in missing if _one_letter_off(name, normal(field))]
        for at, name in unknown
    }
    meant = {at: fields[0] for at, fields in near.items() if len(fields) == 1}
    claims = [field for fields in near.values() for field in fields]
    return {at: field for at, field in meant.items() if claims.count(field) == 1}


def _one_letter_off(name: str, field: str) -> bool:
    """Whether one letter is wrong, missing or too many, or two neighbours are swapped."""
    if min(len(name), len(field)) < SHORTEST_MISSPELT or abs(len(name) - len(field)) > 1:
        return False
    changes = [
        max(there - here, upto - since)
        for what, here, there, since, upto in SequenceMatcher(
            None, name, field, autojunk=False
        ).get_opcodes()
        if what != "equal"
    ]
    swapped = len(changes) == 2 and sorted(name) == sorted(field)
    return sum(changes) <= 1 or (swapped and sum(changes) == 2)
