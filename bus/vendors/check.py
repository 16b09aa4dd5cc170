"""Checks agreements, and says what is wrong in words that a privacy officer reads.

An error stops `bus vendors apply`. A warning does not. The form of a file (unknown keys, dates that
are no dates) is checked by its model in `bus.vendors.agreement`. This module checks whether the
agreement makes sense: against the schedule of data, the standard, the district's schools and
classes, the other agreements, and what has been applied before.
"""

from __future__ import annotations

import hashlib
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from dataclasses import field as dataclass_field
from datetime import date
from itertools import combinations
from pathlib import Path
from typing import Literal
from urllib.parse import urlsplit

from bus.errors import Stop
from bus.ingest.grades import GRADES
from bus.settings import Settings, VendorsSettings, meant_by
from bus.standard.kinds import Kind
from bus.vendors import agreement as agreement_file
from bus.vendors import applied
from bus.vendors.agreement import Agreement, Basis, Identifiers
from bus.vendors.applied import Applied
from bus.vendors.categories import ALWAYS, categories
from bus.vendors.district_counts import ids
from bus.vendors.scope import NEVER_SHARED, ROLE_OF_KIND, compile_scope
from bus.web.public_address import is_inside

Level = Literal["error", "warning"]

SERVED = frozenset({"kafka", "webhook", "csv"})
"""The ways out that this version serves."""
SERVES_RETURNS = False
"""Whether this version takes records that a vendor sends back."""

NAMES = (
    *("givenName", "familyName", "middleName"),
    *("preferredFirstName", "preferredMiddleName", "preferredLastName"),
)
LOGINS_AND_NUMBERS = ("username", "identifier", "userMasterIdentifier", "userIds")
CONTACTS = ("email", "sms", "phone")
IDENTIFYING = frozenset(
    {
        *(
            f"{kind}.{field}"
            for kind in ("student", "guardian")
            for field in (*NAMES, *LOGINS_AND_NUMBERS, *CONTACTS)
        ),
        "demographics.birthDate",
        *("attendance.attendanceEventReason", "result.comment", "lineItem.description"),
    }
)
"""Fields that name a student or a family, or that join the data of two vendors, whatever the ids
are. Free text is among them, as it may name anybody. Teachers are not: pseudonyms protect students
and families."""

OPEN = frozenset({"public", "directory", "operational"})
"""The classes of sensitivity that directory information covers."""
MOST_NAMED = 4


@dataclass(frozen=True, slots=True)
class Problem:
    """Something wrong with an agreement.

    level: error: it must be corrected before the agreement can be applied. warning: look at it.
    file:  the agreement file; "" if the problem concerns none of them alone.
    key:   the key of the file, such as "share.categories"; "" for the whole file.
    text:  what is wrong and what to do, as a sentence.
    """

    level: Level
    file: str
    key: str
    text: str


@dataclass(frozen=True, slots=True)
class AgreementFile:
    """An agreement and the file that holds it."""

    path: Path
    agreement: Agreement


@dataclass(frozen=True, slots=True)
class Known:
    """What agreements are checked against.

    day:     today, in the district's calendar.
    applied: what has been applied before; None if the bus could not be asked.
    schools: the ids of the district's organizations; None if the bus could not be asked.
    classes: the ids of the district's classes; None if the bus could not be asked.
    vendors: the settings `[vendors]`.
    """

    day: date
    applied: Mapping[str, Applied] | None
    schools: Collection[str] | None
    classes: Collection[str] | None
    vendors: VendorsSettings = dataclass_field(default_factory=VendorsSettings)


def load(folder: Path) -> tuple[list[AgreementFile], list[Problem]]:
    """Return the agreements of a folder, and the problems of files that are no agreements.

    Raises `Stop` if the folder cannot be read.
    """
    files, problems = [], []
    for name in agreement_file.names(folder):
        path = folder / f"{name}.toml"
        try:
            table = agreement_file.read(path)
        except Stop as error:
            problems.append(Problem("error", path.name, "", str(error)))
            continue
        if faults := agreement_file.faults(name, table):
            problems += [Problem("error", path.name, key, text) for key, text in faults]
        else:
            files.append(AgreementFile(path, agreement_file.parse(name, table, str(path))))
    return files, problems


def check(
    files: Sequence[AgreementFile], standard: Mapping[str, Kind], known: Known
) -> list[Problem]:
    """Return what is wrong with agreements, in the order of the files.

    standard: the kinds of record, `bus.standard.KINDS`.
    """
    found = [
        problem
        for file in files
        for problem in _Check(file, standard, known, {one.agreement.name: one for one in files})
    ]
    found += _disagreements([file.agreement for file in files])
    found += _unchecked(files, known)
    return found


def ask(settings: Settings, files: Iterable[AgreementFile], day: date) -> Known:
    """Return what agreements are checked against, as far as they need it.

    Raises `RetryLater` or `Stop` if the bus cannot be asked.
    """
    students = [file.agreement.students for file in files]
    return Known(
        day,
        applied.read(settings),
        ids(settings, "org") if any(one.schools for one in students) else (),
        ids(settings, "class") if any(one.classes for one in students) else (),
        settings.vendors,
    )


class _Check:
    """The checks of one agreement. Iterating yields the problems."""

    def __init__(
        self,
        file: AgreementFile,
        standard: Mapping[str, Kind],
        known: Known,
        files: Mapping[str, AgreementFile],
    ) -> None:
        self._file = file
        self._agreement = file.agreement
        self._standard = {k: v for k, v in standard.items() if k not in NEVER_SHARED}
        self._known = known
        self._files = files
        self._shared = {
            f"{kind}.{field}"
            for kind, scope in compile_scope(file.agreement).kinds.items()
            for field in scope.fields
            if field not in ALWAYS
        }
        self._every_field = [
            f"{k}.{f}" for k, about in self._standard.items() for f in about.fields
        ]
        self._sensitivity = {
            f"{kind}.{field['name']}": str(field["sensitivity"])
            for kind, about in self._standard.items()
            for field in about.schema["fields"]
        }

    def __iter__(self) -> Iterator[Problem]:
        yield from self._dates()
        yield from self._document()
        yield from self._categories()
        yield from self._fields()
        yield from self._reasons()
        yield from self._basis()
        yield from self._selectors()
        yield from self._roles()
        yield from self._ways()
        yield from self._renewal()

    def _error(self, key: str, text: str) -> Problem:
        return Problem("error", self._file.path.name, key, text)

    def _warning(self, key: str, text: str) -> Problem:
        return Problem("warning", self._file.path.name, key, text)

    # ---- dates and document --------------------------------------------------------------------

    def _dates(self) -> Iterator[Problem]:
        one, day = self._agreement, self._known.day
        if one.until < one.from_:
            yield self._error(
                "until", f"The last day, {one.until}, is before the first, {one.from_}."
            )
            return
        before = (self._known.applied or {}).get(one.name)
        if before is not None and before.over(day):
            yield from self._over(before)
        elif one.until < day:
            yield self._error(
                "until",
                f"The agreement ended on {one.until}. Correct the date, or delete the file.",
            )
        if one.history and one.history > one.until:
            yield self._error(
                "history", f"{one.history} is after the agreement's last day, {one.until}."
            )

    def _over(self, before: Applied) -> Iterator[Problem]:
        what = "was revoked" if before.state == "revoked" else f"ended on {before.agreement.until}"
        if before.agreement == self._agreement:
            yield self._warning("", f"The agreement {what}. You may delete the file.")
        else:
            yield self._error(
                "",
                f"The agreement {what}, and this file has changed since. A changed file does not "
                f'begin it again. Write a new file with `renews = "{before.name}"`.'
                if before.state != "revoked"
                else f"The agreement {what}, and this file has changed since. A changed file does "
                "not begin it again. Write a new file with another name.",
            )

    def _document(self) -> Iterator[Problem]:
        document = self._agreement.document
        if not document.file:
            return
        path = self._file.path.parent / document.file
        try:
            found = hashlib.sha256(path.read_bytes()).hexdigest()
        except OSError as error:
            yield self._error(
                "document.file", f"The signed document {path} cannot be read ({error.strerror})."
            )
            return
        if found != document.sha256:
            yield self._error(
                "document.sha256",
                f"{document.file} is not the document that was signed: its SHA-256 is {found}. "
                "Put the signed file back, or correct the value if this is the signed file.",
            )

    # ---- what is shared ------------------------------------------------------------------------

    def _categories(self) -> Iterator[Problem]:
        for name in self._agreement.share.categories:
            fields = categories().get(name)
            if fields is None:
                yield self._error(
                    "share.categories",
                    f'"{name}" is not a category of the schedule of data. '
                    + _meant(name, list(categories()), "docs/agreements.md lists the categories."),
                )
            elif not fields:
                yield self._warning(
                    "share.categories",
                    f'The standard has no field for "{name}", so nothing of it flows.',
                )
        if not self._shared:
            yield self._error(
                "share", "Nothing is shared. Name categories or fields of which something flows."
            )
        elif "student" not in self._kinds() and (about := self._about_students()):
            yield self._warning(
                "share",
                "No data of the students themselves is shared, so the vendor cannot see to whom "
                f"{_listed(about)} records belong. Add a category such as Enrollment.",
            )

    def _kinds(self) -> set[str]:
        return {field.partition(".")[0] for field in self._shared}

    def _about_students(self) -> list[str]:
        """Return the shared kinds that name a student by a reference."""
        return [
            kind
            for kind in sorted(self._kinds())
            if (student := self._standard[kind].student) and student.name != "sourcedId"
        ]

    def _fields(self) -> Iterator[Problem]:
        share = self._agreement.share
        named = {f for one in share.categories for f in categories().get(one, ())}
        for field in (*share.fields, *share.without):
            key = "share.fields" if field in share.fields else "share.without"
            if field not in self._every_field:
                yield self._error(
                    key,
                    f'The standard has no field "{field}". '
                    + _meant(
                        field,
                        self._every_field,
                        "docs/standard/data-dictionary.md lists the fields.",
                    ),
                )
            elif field.rpartition(".")[2] in ALWAYS and field in share.without:
                yield self._error(
                    key, f"{field} cannot be left out: every record that a vendor receives has it."
                )
        for field in share.without:
            if field.rpartition(".")[2] in ALWAYS or field not in self._every_field:
                continue
            if field not in named | set(share.fields):
                yield self._warning(
                    "share.without",
                    f"{field} takes nothing out: none of the categories and fields has it. Correct "
                    "the name, or remove it.",
                )

    def _reasons(self) -> Iterator[Problem]:
        share = self._agreement.share
        allowed = [*categories(), *self._every_field]
        for name in share.why:
            if name not in allowed:
                yield self._error(
                    "share.why",
                    f'"{name}" is no field and no category. '
                    + _meant(name, allowed, "Give the reason by field, or by category."),
                )
            elif name not in share.categories and name not in self._shared:
                yield self._warning(
                    "share.why", f"There is a reason for {name}, but it is not shared."
                )
        unexplained = {field for field in self._shared if not self._explained(field)}
        identifying = (
            unexplained & IDENTIFYING
            if self._agreement.identifiers is Identifiers.PSEUDONYMS
            else set()
        )
        if identifying:
            yield self._error(
                "share.why",
                f"The vendor receives pseudonyms, but {_listed(sorted(identifying))} "
                f"{_verb(identifying, 'identifies', 'identify')} the person all the same. Leave "
                f"{_it(identifying)} out (share.without), or say in [share.why] why the vendor "
                f"needs {_it(identifying)}.",
            )
        sensitive = {f for f in unexplained - identifying if self._sensitivity[f] == "sensitive"}
        if sensitive:
            yield self._error(
                "share.why",
                f"{_listed(sorted(sensitive))} {_verb(sensitive, 'is', 'are')} sensitive. Say in "
                f"[share.why] why the vendor needs {_it(sensitive)}, or leave {_it(sensitive)} out "
                "(share.without).",
            )

    def _explained(self, field: str) -> bool:
        why = self._agreement.share.why
        return field in why or any(field in categories().get(name, ()) for name in why)

    def _basis(self) -> Iterator[Problem]:
        one = self._agreement
        if one.basis in (Basis.STUDIES, Basis.AUDIT) and one.identifiers is Identifiers.REAL:
            yield self._warning(
                "identifiers",
                f"The basis is {one.basis}, and the vendor receives real ids. A study or an audit "
                "seldom needs them; pseudonyms are the default.",
            )
        if one.basis is Basis.DIRECTORY_INFORMATION:
            closed = sorted(f for f in self._shared if self._sensitivity[f] not in OPEN)
            if closed:
                yield self._warning(
                    "basis",
                    f"{_listed(closed)} {_verb(closed, 'is', 'are')} not directory information in "
                    "this standard. Check that the district's annual notice designates "
                    f"{_it(closed)}.",
                )

    # ---- students and people -------------------------------------------------------------------

    def _selectors(self) -> Iterator[Problem]:
        students = self._agreement.students
        for selector, values, told_by, category in (
            ("schools", students.schools, SCHOOL_FIELDS, "Enrollment"),
            ("grades", students.grades, {"student.grades"}, "Enrollment"),
            ("classes", students.classes, {"enrollment.classSourcedId"}, "Schedule"),
        ):
            if values and not told_by & self._shared:
                yield self._error(
                    f"students.{selector}",
                    f"The students are selected by {selector}, which the vendor then knows of each "
                    f"of them, but the data that is shared does not have it. Add the category "
                    f"{category}, or do not select by {selector}.",
                )
        for grade in students.grades:
            if grade not in GRADES:
                yield self._warning(
                    "students.grades",
                    f'"{grade}" is not a grade code of CEDS. '
                    + _meant(grade, list(GRADES), f"The codes are: {', '.join(GRADES)}."),
                )
        for selector, values, existing, what in (
            ("schools", students.schools, self._known.schools, "school"),
            ("classes", students.classes, self._known.classes, "class"),
        ):
            for id_ in values:
                if existing is not None and id_ not in existing:
                    yield self._error(
                        f"students.{selector}",
                        f'The district has no {what} with the id "{id_}". Write the sourcedId of '
                        "the SIS.",
                    )

    def _roles(self) -> Iterator[Problem]:
        share, roles = self._agreement.share, self._agreement.roles
        for kind, role in ROLE_OF_KIND.items():
            prefix = f"{kind}."
            named = any(field.startswith(prefix) for field in share.fields)
            meant = [
                name
                for name in share.categories
                if (fields := categories().get(name))
                and all(field.startswith((prefix, "student.agentSourcedIds")) for field in fields)
            ]
            if role not in roles and (named or meant):
                what = " and ".join(f'"{name}"' for name in meant) or f"fields of a {kind}"
                yield self._warning(
                    "roles", f'{what}: nothing of a {role} flows, because `roles` has no "{role}".'
                )
            if role in roles and kind not in self._kinds():
                yield self._warning(
                    "roles",
                    f'`roles` has "{role}", but no field of a {role} is shared, so nothing flows.',
                )

    # ---- ways out and renewal ------------------------------------------------------------------

    def _ways(self) -> Iterator[Problem]:
        one = self._agreement
        ways = [*one.ways, *(["webhook"] if one.webhook else []), *(["csv"] if one.csv else [])]
        for way in ways:
            if way not in SERVED:
                yield self._error(
                    "ways" if way in one.ways else way,
                    f"This version of Schoolbus cannot deliver by {way} yet. Use "
                    f"{' or '.join(sorted(SERVED))}.",
                )
        rules = self._known.vendors
        if one.webhook and is_inside(
            urlsplit(one.webhook.url).hostname or "",
            rules.internal_networks,
            loopback=rules.loopback_endpoints,
        ):
            yield self._error(
                "webhook.url",
                "The address is inside the district's network, to which Schoolbus sends nothing "
                "for a vendor. Ask the vendor for an address on the public internet.",
            )
        if not ways:
            yield self._warning("ways", "No way out is named, so nothing flows.")
        if one.returns and not SERVES_RETURNS:
            yield self._error(
                "returns", "This version of Schoolbus cannot take records from a vendor yet."
            )

    def _renewal(self) -> Iterator[Problem]:
        one, stored_by_name = self._agreement, self._known.applied or {}
        before = stored_by_name.get(one.name)
        if before is not None and before.agreement.renews != one.renews:
            yield self._error(
                "renews",
                "`renews` cannot change after the agreement was applied, because the vendor's "
                f'topics and ids depend on it. It was "{before.agreement.renews}".',
            )
            return
        if not one.renews:
            return
        if one.renews == one.name:
            yield self._error("renews", "An agreement cannot renew itself.")
            return
        file, stored = self._files.get(one.renews), stored_by_name.get(one.renews)
        if stored is not None:
            earlier = stored.agreement
        elif file is not None:
            earlier = file.agreement
        else:
            if self._known.applied is not None:
                yield self._error(
                    "renews",
                    f'There is no agreement "{one.renews}". '
                    + _meant(
                        one.renews,
                        [*self._files, *stored_by_name],
                        "Name an earlier agreement.",
                    ),
                )
            return
        if stored is not None and stored.state == "revoked" and before is not None:
            # The renewal has taken over already, and `renews` cannot change, so an error would have
            # no remedy.
            yield self._warning(
                "renews",
                f'"{one.renews}" was revoked, but this agreement stays active, with the same '
                f"ids. To end it too, run `bus vendors revoke {one.name} --why TEXT`.",
            )
        elif stored is not None and stored.state == "revoked":
            yield self._error(
                "renews",
                f'"{one.renews}" was revoked, so nothing can be taken over from it. Leave `renews` '
                "out; the vendor then gets new ids.",
            )
        elif stored is not None and stored.deleted and one.name not in stored_by_name:
            yield self._error(
                "renews",
                f'The topics and the key of "{one.renews}" are deleted, so nothing can be taken '
                "over from it. Leave `renews` out; the vendor then gets new ids.",
            )
        elif earlier.until >= one.from_:
            yield self._error(
                "renews",
                f'"{one.renews}" runs until {earlier.until}, and this agreement begins on '
                f"{one.from_}. A renewal begins after the last day of what it renews.",
            )
        if _plain(earlier.vendor) != _plain(one.vendor):
            yield self._error(
                "vendor",
                f'"{one.renews}" is an agreement with {earlier.vendor}. A renewal takes over its '
                "ids, so it must be with the same company.",
            )


SCHOOL_FIELDS = {
    "student.orgSourcedIds",
    "student.primaryOrgSourcedId",
    "enrollment.schoolSourcedId",
    "class.schoolSourcedId",
}
"""Each of these tells the vendor a student's school."""


def _disagreements(agreements: Sequence[Agreement]) -> Iterator[Problem]:
    """Yield the problems of two agreements together."""
    for one, other in combinations(agreements, 2):
        file = f"{other.name}.toml"
        if (
            _plain(one.vendor) == _plain(other.vendor)
            and one.purpose == other.purpose
            and one.basis is not other.basis
            and one.from_ <= other.until
            and other.from_ <= one.until
        ):
            yield Problem(
                "error",
                file,
                "basis",
                f"The basis is {other.basis}, but {one.name}.toml has {one.basis} for the same "
                "vendor and purpose at the same time. An opt-out depends on the basis, so the two "
                "must agree.",
            )
        if (
            one.csv
            and other.csv
            and Path(one.csv.folder).absolute() == Path(other.csv.folder).absolute()
            and one.from_ <= other.until
            and other.from_ <= one.until
        ):
            yield Problem(
                "error",
                file,
                "csv.folder",
                f"{one.name}.toml writes into this folder too, at the same time. Give each "
                "agreement a folder of its own.",
            )
        if one.renews and one.renews == other.renews:
            yield Problem(
                "error",
                file,
                "renews",
                f'{one.name}.toml renews "{one.renews}" too. Only one agreement can take over its '
                "topics and ids.",
            )


def _unchecked(files: Iterable[AgreementFile], known: Known) -> Iterator[Problem]:
    """Yield a warning for what could not be checked because the bus could not be asked."""
    missing = []
    for what, selected, existing in (
        ("schools", [f for f in files if f.agreement.students.schools], known.schools),
        ("classes", [f for f in files if f.agreement.students.classes], known.classes),
    ):
        if selected and existing is None:
            missing.append(f"whether the {what} exist")
    if known.applied is None:
        missing.append("what was applied before")
    if missing:
        yield Problem(
            "warning", "", "", f"Not checked, as the bus could not be asked: {'; '.join(missing)}."
        )


def _meant(name: str, names: list[str], otherwise: str) -> str:
    meant = meant_by(name, names)
    return f'Did you mean "{meant}"?' if meant else otherwise


def _listed(names: Sequence[str]) -> str:
    named = list(names) if len(names) <= MOST_NAMED + 1 else list(names[:MOST_NAMED])
    if len(named) < len(names):
        return f"{', '.join(named)} and {len(names) - len(named)} more"
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _verb(names: Collection[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _it(names: Collection[str]) -> str:
    return "it" if len(names) == 1 else "them"


def _plain(text: str) -> str:
    return " ".join(text.casefold().split())
