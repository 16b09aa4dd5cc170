"""Checks what an agreement shares: its data, its students and its roles.

The data must be in the schedule of data and in the standard. Sensitive and identifying fields need
a reason. A selector must not tell the vendor more about a student than the shared fields do.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence

from bus.ingest.grades import GRADES
from bus.standard.kinds import Kind
from bus.vendors.agreement import Agreement, Basis, Identifiers
from bus.vendors.categories import ALWAYS, categories
from bus.vendors.problem import Problem, suggestion
from bus.vendors.scope import NEVER_SHARED, ROLE_OF_KIND, compile_scope

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
"""Fields that identify a student or a family although the ids are pseudonyms, or by which two
vendors can join their data. They include free text, because it may name anybody. They do not
include fields of teachers, because pseudonyms protect students and families."""

OPEN = frozenset({"public", "directory", "operational"})
"""The classes of sensitivity that directory information covers."""
SCHOOL_FIELDS = {
    "student.orgSourcedIds",
    "student.primaryOrgSourcedId",
    "enrollment.schoolSourcedId",
    "class.schoolSourcedId",
}
"""Fields from which the vendor knows a student's school. One of them is enough."""
MOST_NAMED = 4
"""A text names at most this many fields, and counts the others."""


class ShareCheck:
    """The checks of what one agreement shares. Iterating yields the problems.

    file:     the name of the agreement file.
    standard: the kinds of record.
    schools:  the ids of the district's organizations; None if they are unknown.
    classes:  the ids of the district's classes; None if they are unknown.
    """

    def __init__(
        self,
        file: str,
        agreement: Agreement,
        standard: Mapping[str, Kind],
        schools: Collection[str] | None,
        classes: Collection[str] | None,
    ) -> None:
        self._file = file
        self._agreement = agreement
        self._standard = {k: v for k, v in standard.items() if k not in NEVER_SHARED}
        self._schools = schools
        self._classes = classes
        self._shared = {
            f"{kind}.{field}"
            for kind, scope in compile_scope(agreement).kinds.items()
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
        yield from self._categories()
        yield from self._fields()
        yield from self._reasons()
        yield from self._basis()
        yield from self._selectors()
        yield from self._roles()

    def _error(self, key: str, text: str) -> Problem:
        return Problem("error", self._file, key, text)

    def _warning(self, key: str, text: str) -> Problem:
        return Problem("warning", self._file, key, text)

    # ---- what is shared ------------------------------------------------------------------------

    def _categories(self) -> Iterator[Problem]:
        for name in self._agreement.share.categories:
            fields = categories().get(name)
            if fields is None:
                yield self._error(
                    "share.categories",
                    f'"{name}" is not a category of the schedule of data. '
                    + suggestion(
                        name, list(categories()), "docs/agreements.md lists the categories."
                    ),
                )
            elif not fields:
                yield self._warning(
                    "share.categories",
                    f'The standard has no field for "{name}", so the vendor receives no such data.',
                )
        if not self._shared:
            yield self._error(
                "share", "No field is shared. Name fields, or categories that have fields."
            )
        elif "student" not in self._kinds() and (about := self._about_students()):
            yield self._warning(
                "share",
                "No field of the kind student is shared, so the vendor cannot see which students "
                f"{_listed(about)} records are about. Add a category such as Enrollment.",
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
                    + suggestion(
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
                    f"{field} is not shared anyway: none of the categories and fields has it. "
                    "Correct the name, or remove it.",
                )

    def _reasons(self) -> Iterator[Problem]:
        share = self._agreement.share
        allowed = [*categories(), *self._every_field]
        for name in share.why:
            if name not in allowed:
                yield self._error(
                    "share.why",
                    f'"{name}" is neither a field nor a category. '
                    + suggestion(name, allowed, "Give the reason by field, or by category."),
                )
            elif name not in share.categories and name not in self._shared:
                yield self._warning(
                    "share.why", f"There is a reason for {name}, but {name} is not shared."
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
                f"{_verb(identifying, 'identifies', 'identify')} the person anyway. Leave "
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
                    f"The agreement selects students by {selector}. That tells the vendor the "
                    f"{selector} of each student, but the agreement does not share them. Add the "
                    f"category {category}, or do not select by {selector}.",
                )
        for grade in students.grades:
            if grade not in GRADES:
                yield self._warning(
                    "students.grades",
                    f'"{grade}" is not a grade code of CEDS. '
                    + suggestion(grade, list(GRADES), f"The codes are: {', '.join(GRADES)}."),
                )
        for selector, values, existing, what in (
            ("schools", students.schools, self._schools, "school"),
            ("classes", students.classes, self._classes, "class"),
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
                    "roles",
                    f"{what}: the vendor receives no record of a {role}, because `roles` has no "
                    f'"{role}".',
                )
            if role in roles and kind not in self._kinds():
                yield self._warning(
                    "roles",
                    f'`roles` has "{role}", but no field of a {role} is shared, so the vendor '
                    f"receives no record of a {role}.",
                )


def _listed(names: Sequence[str]) -> str:
    named = list(names) if len(names) <= MOST_NAMED + 1 else list(names[:MOST_NAMED])
    if len(named) < len(names):
        return f"{', '.join(named)} and {len(names) - len(named)} more"
    return " and ".join([", ".join(named[:-1]), named[-1]] if len(named) > 1 else named)


def _verb(names: Collection[str], one: str, many: str) -> str:
    return one if len(names) == 1 else many


def _it(names: Collection[str]) -> str:
    return "it" if len(names) == 1 else "them"
