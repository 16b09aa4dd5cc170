"""What one agreement lets a vendor see: which students, which records, which fields, which ids.

An agreement compiles to one `Scope`. Every way out asks it, so a vendor receives nothing else. All
functions here are pure: they do no I/O and have no clock. The caller passes the day.

A student is in the cohort if the roster selects the student (`Students` of the agreement) and no
opt-out keeps the student out. The vendor receives

* the records about a student of the cohort: the student, demographics, enrollments, attendance,
  results. If the agreement selects schools or classes, then enrollments, attendance and results
  must also be at a selected school and in a selected class. Otherwise the vendor would learn of a
  student's other schools;
* what these records refer to: classes, their courses, terms, schools and line items;
* the teachers of these classes and the guardians of these students, where `roles` says so.

Of each record it receives the shared fields (`bus.vendors.categories`). A reference to a record
that it cannot see is removed, in lists too. Opt-outs themselves are never shared.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Iterable, Mapping, Sequence
from dataclasses import dataclass
from datetime import date, datetime
from typing import Any

from bus.standard.kinds import KINDS, Kind, Record
from bus.vendors.agreement import Agreement, Basis, Identifiers
from bus.vendors.categories import shared_fields

OPT_OUT = "optOut"
"""The kind of opt-outs."""
NEVER_SHARED = frozenset({OPT_OUT})
"""Kinds that no vendor receives, whatever an agreement says."""
MAY_CONSENT = frozenset({"parent", "eligibleStudent"})
"""Who may consent to a disclosure (34 CFR 99.30 (a), 99.3)."""
ROLE_OF_KIND = {"staff": "teacher", "guardian": "guardian"}
"""Kinds of people that an agreement must name in `roles`."""

DATED = frozenset({"attendance", "result"})
"""Kinds of which only records since a day are shared (`Scope.since`)."""

Pseudonym = Callable[[str], str]
InCohort = Callable[[str], bool]
Columns = dict[str, list[Any]]
"""Records as columns: for each field, the values of all records."""


@dataclass(frozen=True, slots=True)
class KindScope:
    """What a vendor receives of the records of one kind.

    kind:       the kind.
    fields:     the shared fields, in the schema's order; `sourcedId` and `status` come first.
    references: the shared fields that hold ids of other records, with the kinds they may name.
    moments:    the shared fields that hold a time of day; they are cut to seconds, for studies to
                days.
    student:    whether a record is about one student (or, for an enrollment, may be).
    """

    kind: str
    fields: tuple[str, ...]
    references: Mapping[str, tuple[str, ...]]
    moments: tuple[str, ...]
    student: bool


@dataclass(frozen=True, slots=True)
class Scope:
    """The compiled agreement.

    agreement: what it was compiled from.
    kinds:     the kinds that the vendor receives, in the standard's dependency order.
    """

    agreement: Agreement
    kinds: Mapping[str, KindScope]
    _schools: frozenset[str]
    _grades: frozenset[str]
    _classes: frozenset[str]

    @property
    def name(self) -> str:
        """The agreement's name."""
        return self.agreement.name

    @property
    def needs_classes(self) -> bool:
        """Whether `selects` needs the classes in which a student is enrolled."""
        return bool(self._classes)

    @property
    def selects_schools(self) -> bool:
        """Whether only records of some schools are shared."""
        return bool(self._schools)

    @property
    def selects_places(self) -> bool:
        """Whether only records of some schools or classes are shared."""
        return bool(self._schools or self._classes)

    @property
    def pseudonymous(self) -> bool:
        """Whether ids are replaced by pseudonyms."""
        return self.agreement.identifiers is Identifiers.PSEUDONYMS

    @property
    def since(self) -> date:
        """The first day of the shared history."""
        return self.agreement.history or self.agreement.from_

    def selects(self, student: Record, classes: Collection[str] = ()) -> bool:
        """Return whether the roster puts a student into this agreement.

        student: the student's record.
        classes: ids of the classes in which the student has an active enrollment.
        """
        return (
            student["status"] == "active"
            and (not self._schools or not self._schools.isdisjoint(student["orgSourcedIds"]))
            and (not self._grades or not self._grades.isdisjoint(student["grades"]))
            and (not self._classes or not self._classes.isdisjoint(classes))
        )

    def keeps_out(self, opt_outs: Iterable[Record], day: date) -> bool:
        """Return whether one of a student's opt-outs keeps the student out on this day.

        | opt-out              | keeps the student out of                                   |
        | protected            | every agreement                                            |
        | vendor               | the agreements that it names, or whose vendor it names     |
        | purpose              | the agreements with this purpose                           |
        | directoryInformation | the agreements on the basis of directory information       |

        An opt-out from directory information does not affect agreements on another basis. It must
        not take a child out of the learning system (34 CFR 99.37 is about directory information
        alone).

        On the basis of consent, a student without a consent is kept out too (34 CFR 99.30). A
        consent is a record of the same kind whose decision is "allow". It names the agreement or
        its vendor, and a parent or the eligible student gave it. It never cancels an opt-out.
        """
        consented = self.agreement.basis is not Basis.CONSENT
        for one in opt_outs:
            if (
                one["status"] == "active"
                and (one["beginDate"] is None or one["beginDate"] <= day)
                and (one["endDate"] is None or day <= one["endDate"])
            ):
                if one["decision"] == "deny":
                    if self._concerned(one):
                        return True
                elif (
                    one["scope"] == "vendor"
                    and one["vendor"]
                    and one["decidedBy"] in MAY_CONSENT
                    and self._concerned(one)
                ):
                    consented = True
        return not consented

    def _concerned(self, opt_out: Record) -> bool:
        agreement = self.agreement
        if opt_out["scope"] == "directoryInformation":
            return agreement.basis is Basis.DIRECTORY_INFORMATION
        if opt_out["scope"] == "vendor":
            named = _plain(opt_out["vendor"])
            return named in ("", _plain(agreement.name), _plain(agreement.vendor))
        if opt_out["scope"] == "purpose":
            return _plain(opt_out["purpose"]) in ("", _plain(agreement.purpose))
        return True  # protected, or a scope that this version does not know: keep the student out

    def admits_place(self, record: Record) -> bool:
        """Return whether the school and the class of a record are selected.

        record: an enrollment, a class, attendance. A field that the record lacks is not checked.
        """
        school = record.get("schoolSourcedId")
        class_ = record.get("classSourcedId")
        return (not self._schools or school is None or school in self._schools) and (
            not self._classes or class_ is None or class_ in self._classes
        )

    def admits_date(self, kind: str, record: Record) -> bool:
        """Return whether the day of a record is in the shared history."""
        if kind == "attendance":
            return bool(record["eventDate"] >= self.since)
        if kind == "result":
            return bool(record["scoreDate"] >= self.since)
        return True

    def admits_org(self, org: str, above: Collection[str] = ()) -> bool:
        """Return whether an organization may be named.

        above: the ids of the organizations above the selected schools.
        """
        return not self._schools or org in self._schools or org in above

    def project(
        self,
        kind: str,
        records: Sequence[Record],
        pseudonym: Pseudonym,
        in_cohort: InCohort,
        above: Collection[str] = (),
    ) -> Columns:
        """Return what the vendor receives of records of one kind that it may see.

        The result has the shared fields; each is a column with one value for each record. Ids are
        the vendor's. Fields with references to records that the vendor cannot see are None or
        shorter lists.

        pseudonym: the vendor's id for a real one.
        in_cohort: whether a student is in the cohort.
        above:     the ids of the organizations above the selected schools.
        """
        scope = self.kinds[kind]
        found: Columns = {field: [record[field] for record in records] for field in scope.fields}
        day = self.agreement.basis is Basis.STUDIES
        for field in scope.moments:
            found[field] = [
                None if moment is None else _coarse(moment, day=day) for moment in found[field]
            ]
        for field, kinds in scope.references.items():
            sees = self._sees(kinds, in_cohort, above)
            found[field] = [
                None
                if value is None
                else [pseudonym(one) for one in value if sees is None or sees(one)]
                if isinstance(value, list)
                else pseudonym(value)
                if sees is None or sees(value)
                else None
                for value in found[field]
            ]
        found["sourcedId"] = [pseudonym(id_) for id_ in found["sourcedId"]]
        return found

    def _sees(
        self, kinds: tuple[str, ...], in_cohort: InCohort, above: Collection[str]
    ) -> InCohort | None:
        """Return the test whether the vendor may see a record of these kinds; None: it may."""
        if kinds == ("org",):
            return (lambda org: self.admits_org(org, above)) if self._schools else None
        if kinds == ("student",):
            return in_cohort
        return None  # it is sent because of the record that refers to it

    def refers(
        self, kind: str, record: Record, above: Collection[str] = ()
    ) -> set[tuple[str, str]]:
        """Return the kind and id of the records that must be sent because a record refers to them.

        These are never students, and never records of kinds that are not shared.
        """
        found = set()
        for field, kinds in self.kinds[kind].references.items():
            value = record[field]
            for one in value if isinstance(value, list) else () if value is None else (value,):
                for other in kinds:
                    if other == "student" or other not in self.kinds:
                        continue
                    if other == "org" and not self.admits_org(one, above):
                        continue
                    found.add((other, one))
        return found


def compile_scope(agreement: Agreement) -> Scope:
    """Return the scope of an agreement."""
    fields = {
        kind: names
        for kind, names in shared_fields(agreement.share).items()
        if kind not in NEVER_SHARED and ROLE_OF_KIND.get(kind, "") in ("", *agreement.roles)
    }
    return Scope(
        agreement,
        {kind: _kind_scope(KINDS[kind], names, fields) for kind, names in fields.items()},
        frozenset(agreement.students.schools),
        frozenset(agreement.students.grades),
        frozenset(agreement.students.classes),
    )


def _kind_scope(kind: Kind, names: tuple[str, ...], shared: Collection[str]) -> KindScope:
    """Return the scope of a kind; references to kinds that are not shared are left out."""
    kept = []
    references = {}
    for name in names:
        targets = _targets(kind, name)
        if targets:
            targets = tuple(one for one in targets if one in shared)
            if not targets:
                if name != "sourcedId":
                    continue
            else:
                references[name] = targets
        kept.append(name)
    references.pop("sourcedId", None)
    moments = tuple(
        field["name"]
        for field in kind.schema["fields"]
        if field["name"] in kept and "timestamp-millis" in str(field["type"])
    )
    return KindScope(kind.name, tuple(kept), references, moments, kind.student is not None)


def _targets(kind: Kind, field: str) -> tuple[str, ...]:
    """Return the kinds that a field names.

    `agentSourcedIds` has no `references` in the schema, because what it names depends on the
    person: guardians of a student, students of a guardian. Of staff, it is not shared.
    """
    if field == "agentSourcedIds":
        return {"student": ("guardian",), "guardian": ("student",)}.get(kind.name, ("nobody",))
    return kind.references.get(field, ())


def records_of(columns: Columns) -> list[Record]:
    """Return columns as records."""
    names = tuple(columns)
    return [dict(zip(names, row, strict=True)) for row in zip(*columns.values(), strict=True)]


def _coarse(moment: datetime, *, day: bool) -> datetime:
    """Return a time cut to the second, or to the day, so that it joins no two vendors."""
    cut = moment.replace(microsecond=0)
    return cut.replace(hour=0, minute=0, second=0) if day else cut


def _plain(text: str | None) -> str:
    return " ".join((text or "").casefold().split())
