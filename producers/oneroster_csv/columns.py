"""Finds out which column of a file holds which field of the standard.

OneRoster 1.1 and 1.2 CSV Binding fix the names and the order of columns, but vendors vary both. A
column's name is compared without regard to case, spaces, hyphens and underscores. If no field has
the name, it is compared with the names in other versions of OneRoster. After that, a name with one
wrong letter is accepted when it can mean only one field.
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
    "lineItems": {"academicsessionsourcedid": "gradingPeriodSourcedId"},
}
"""Other names of a field, by file: those in other versions of OneRoster, and those in the CSV of
OneRoster 1.2 that differ from its REST names.
"""

IGNORED: Mapping[str, frozenset[str]] = {
    "users": frozenset({"password", "resourcesourcedids", "userprofilesourcedid"}),
    "courses": frozenset({"resourcesourcedids"}),
    "classes": frozenset({"resourcesourcedids"}),
    "lineItems": frozenset({"academicsessionsourcedid", "scorescalesourcedid"}),
    "results": frozenset({"scorescalesourcedid", "inprogress", "incomplete", "late", "missing"}),
    "roles": frozenset({"datelastmodified", "userprofilesourcedid", "begindate", "enddate"}),
}
"""Columns of OneRoster that the standard does not have. They are not reported. A password is never
read.
"""

ROLE_FIELDS = ("sourcedId", "status", "userSourcedId", "roleType", "role", "orgSourcedId")
"""The fields that are read from roles.csv."""

PLAIN_NAME = r"[A-Za-z][A-Za-z_. -]{0,39}"
"""The pattern of a column name that may be repeated in a message."""

KNOWN_SHARE = 4
"""A line counts as a header with certainty only if fewer than one in this many columns is unknown.
"""

LIKE = 0.6
"""How similar an unknown column's name must be to a field's name to be suggested for it (the ratio
of difflib).
"""

SHORTEST_MISSPELT = 5
"""Shorter names are not corrected, because too many of them differ by only one letter."""


@dataclass(frozen=True, slots=True)
class File:
    """A file of OneRoster.

    name:   its name without .csv.
    kinds:  the kinds of record that its rows become.
    fields: the fields that are read from it, named as in the standard.
    key:    the field that every useful row must have.
    """

    name: str
    kinds: tuple[str, ...]
    fields: tuple[str, ...]
    key: str = "sourcedId"

    @property
    def kind(self) -> str:
        """The kind of its rows, or "" when it depends on the role in each row."""
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
            _file("optOuts", "optOut"),
        )
    }
)
"""The files that are read, by name in lower case. attendance.csv and optOuts.csv are additions
of this bus."""

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
    """A remark about a column.

    field:       the field's name in the standard, or the column's place ("column 3").
    value_class: what kind of value the column's name is, never the name.
    reason:      what is wrong, for a person.
    code:        what is wrong, for a program.
    """

    field: str
    value_class: str
    reason: str
    code: FaultCode


@dataclass(frozen=True, slots=True)
class Match:
    """The columns of a file.

    positions: for each field that the file has, the number of its column, from 0.
    width:     how many columns there are.
    notes:     remarks about columns that are unknown, misspelled, repeated or missing.
    """

    positions: Mapping[str, int]
    width: int
    notes: Sequence[Note]


def match(file: File, header: Sequence[str]) -> Match:
    """Find the fields of a file in its header.

    A damaged header may run on into the data of a person. So the name of an unknown column is
    repeated in a message only when the line is certainly a OneRoster header. Otherwise the message
    names the column by its place alone.
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
            reason = f"column {at + 1} repeats the column {field}; it was not read"
            notes.append(Note(field, "", reason, FaultCode.REPEATED_COLUMN))
        else:
            found[field] = at
    misspelt = _misspelt([(at, names[at]) for at in unknown], set(file.fields) - found.keys())
    sure = _is_header(header, unknown)

    def described(at: int) -> str:
        return f"column {at + 1}" + (f", '{header[at].strip()}'," if sure else "")

    for at in unknown:
        if (field := misspelt.get(at)) is not None:
            found[field], code = at, FaultCode.MISSPELT_COLUMN
            reason = f"{described(at)} is misspelled; it was read as {field}"
        else:
            field, code = f"column {at + 1}", FaultCode.UNKNOWN_COLUMN
            reason = f"{described(at)} is not a OneRoster column; it was not read"
        notes.append(Note(field, f"a name of {len(header[at])} characters", reason, code))
    left = {at: names[at] for at in unknown if at not in misspelt} if sure else {}
    for field in _required(file):
        if field not in found and (meant := _meant(field, left)) is not None:
            reason = f"has no column {field}; {described(meant)} may be meant, so correct its name"
            notes.append(Note(field, "", reason, FaultCode.MISSING_COLUMN))
    return Match(found, _width(names), notes)


def _is_header(header: Sequence[str], unknown: Sequence[int]) -> bool:
    """Return whether a line is certainly a OneRoster header, although some names are unknown.

    A header that runs on into a row of data has many unknown names or empty ones.
    """
    plain = all(re.fullmatch(PLAIN_NAME, header[at].strip()) for at in unknown)
    return plain and all(map(str.strip, header)) and len(header) > KNOWN_SHARE * len(unknown)


def _required(file: File) -> Iterator[str]:
    """Yield the fields that every record of the file's kinds must have.

    The key of the file is not among them, because it is checked separately. The role of a user is
    not among them either, because roles.csv may hold it.
    """
    for name in file.fields if file.kinds else ():
        needed = all(_must_have(kind, name) for kind in file.kinds)
        if needed and name not in (file.key, "role"):
            yield name


def _must_have(kind: str, name: str) -> bool:
    """Return whether records of this kind have no default for this field."""
    field = next((one for one in KINDS[kind].schema["fields"] if one["name"] == name), None)
    if field is None or "default" in field:
        return False
    return not (isinstance(field["type"], dict) and "default" in field["type"])


def _meant(field: str, unknown: Mapping[int, str]) -> int | None:
    """Return the unknown column that is most similar to the field's name, or None."""
    near = get_close_matches(normal(field), unknown.values(), n=1, cutoff=LIKE)
    return next((at for at, name in unknown.items() if [name] == near), None)


def normal(name: str) -> str:
    """Return a name in lower case, without spaces, hyphens and underscores."""
    return re.sub(r"[\s_\-]+", "", name.strip("\ufeff")).casefold()


def _width(names: Sequence[str]) -> int:
    """Return the number of columns, not counting unnamed ones at the end."""
    width = len(names)
    while width and not names[width - 1]:
        width -= 1
    return width


def _misspelt(unknown: Sequence[tuple[int, str]], missing: Iterable[str]) -> dict[int, str]:
    """Return the field that each unknown column means.

    A column is left out when it can mean several fields, or when another column can mean the same
    field.
    """
    near = {
        at: [field for field in missing if _one_letter_off(name, normal(field))]
        for at, name in unknown
    }
    meant = {at: fields[0] for at, fields in near.items() if len(fields) == 1}
    claims = [field for fields in near.values() for field in fields]
    return {at: field for at, field in meant.items() if claims.count(field) == 1}


def _one_letter_off(name: str, field: str) -> bool:
    """Return whether two names differ by one letter.

    One letter is wrong, missing or added, or two adjacent letters are swapped.
    """
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
