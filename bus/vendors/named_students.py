"""The students whom the records that a vendor receives name.

A reference to a student who is not in the agreement is removed. A guardian is sent with only those
students who name the guardian too. So when a student enters or leaves, the references to the
guardian always change. The guardian is then sent again, with the students of that moment.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Mapping
from dataclasses import dataclass

from bus.standard.kinds import Record
from bus.vendors.cohort import Cohort
from bus.vendors.counted_references import Emitted
from bus.vendors.district_view import DistrictView
from bus.vendors.scope import Scope


@dataclass(frozen=True, slots=True)
class Named:
    """The students whom some records name.

    members: those who are in the agreement, in any state.
    naming:  for each guardian, the students who name the guardian.
    """

    members: Collection[str]
    naming: Mapping[str, Collection[str]]

    def of_guardian(self, guardian: Record) -> Record:
        """Return a guardian with only those students who name the guardian too."""
        naming = self.naming.get(guardian["sourcedId"], ())
        students = [one for one in guardian["agentSourcedIds"] if one in naming]
        return guardian | {"agentSourcedIds": students}


class NamedStudents:
    """Finds the students whom records of one agreement name."""

    def __init__(self, scope: Scope, view: DistrictView, cohort: Cohort) -> None:
        self._view = view
        self._cohort = cohort
        fields = {
            kind: [name for name, kinds in about.references.items() if kinds == ("student",)]
            for kind, about in scope.kinds.items()
        }
        self._fields = {kind: names for kind, names in fields.items() if names}

    def told(self, naming: Mapping[str, Collection[str]]) -> Named:
        """Return what other shards have said: who is in the agreement and names each guardian."""
        return Named({student for students in naming.values() for student in students}, naming)

    def read(self, emitted: Emitted) -> Named:
        """Return what the view and the cohort have about the students whom these records name."""
        named: set[str] = set()
        guardians: set[str] = set()
        for (kind, _, _), record in emitted.items() if self._fields else ():
            if record is None or kind not in self._fields:
                continue
            for name in self._fields[kind]:
                value = record[name]
                named.update(value if isinstance(value, list) else [value])
            if kind == "guardian":
                guardians.update(record["agentSourcedIds"])
        return Named(self._cohort.among(named), self._naming(guardians))

    def _naming(self, students: Collection[str]) -> Mapping[str, Collection[str]]:
        """Return the students who name each guardian, among these students."""
        found: dict[str, set[str]] = defaultdict(set)
        for (_, student), record in self._view.get_all({("student", s) for s in students}).items():
            for guardian in record["agentSourcedIds"]:
                found[guardian].add(student)
        return found
