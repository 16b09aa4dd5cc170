"""What a vendor must have, computed from its agreement and the district's records alone.

It uses only the list of shared fields of the code under test. Everything else is written a second
time here, as plainly as possible.
"""

from __future__ import annotations

from datetime import date

from bus.standard.kinds import Record
from bus.vendors.agreement import Agreement
from bus.vendors.scope import compile_scope


class District:
    """The checker: a dict of records. It computes each time anew what a vendor may see of them."""

    def __init__(self) -> None:
        self.records: dict[tuple[str, str], Record] = {}

    def of(self, kind: str) -> list[Record]:
        return [one for (name, _), one in self.records.items() if name == kind]

    def cohort(self, deal: Agreement, day: date) -> set[str]:
        found = set()
        opt_outs = self.of("optOut")
        classes_of: dict[str, set[str]] = {}
        for one in self.of("enrollment"):
            if one["role"] == "student" and one["status"] == "active":
                classes_of.setdefault(one["userSourcedId"], set()).add(one["classSourcedId"])
        for student in self.of("student"):
            id_, rules = student["sourcedId"], deal.students
            classes = classes_of.get(id_, set())
            if (
                student["status"] == "active"
                and (not rules.schools or set(rules.schools) & set(student["orgSourcedIds"]))
                and (not rules.grades or set(rules.grades) & set(student["grades"]))
                and (not rules.classes or set(rules.classes) & classes)
                and not any(
                    self.blocks(deal, one, day)
                    for one in opt_outs
                    if one["studentSourcedId"] == id_ and one["decision"] == "deny"
                )
                and (deal.basis != "consent" or self.consented(deal, id_, day))
            ):
                found.add(id_)
        return found

    def consented(self, deal: Agreement, student: str, day: date) -> bool:
        return any(
            one["studentSourcedId"] == student
            and one["decision"] == "allow"
            and one["scope"] == "vendor"
            and one["decidedBy"] in ("parent", "eligibleStudent")
            and self.blocks(deal, one, day)
            for one in self.of("optOut")
        )

    @staticmethod
    def blocks(deal: Agreement, opt_out: Record, day: date) -> bool:
        if opt_out["status"] != "active":
            return False
        if opt_out["beginDate"] and day < opt_out["beginDate"]:
            return False
        if opt_out["endDate"] and day > opt_out["endDate"]:
            return False
        return {
            "protected": True,
            "vendor": opt_out["vendor"] in (deal.vendor, deal.name),
            "purpose": opt_out["purpose"] == deal.purpose,
            "directoryInformation": deal.basis == "directory-information",
        }[opt_out["scope"]]

    def visible(self, deal: Agreement, day: date) -> set[tuple[str, str]]:
        """Return the keys of all records that the vendor may have."""
        cohort, rules = self.cohort(deal, day), deal.students
        since = deal.history or deal.from_
        kinds = compile_scope(deal).kinds
        found: set[tuple[str, str]] = set()

        def place(class_: str | None, school: str | None) -> bool:
            return (not rules.schools or school is None or school in rules.schools) and (
                not rules.classes or class_ is None or class_ in rules.classes
            )

        classes: set[str] = set()
        for student in cohort:
            found.add(("student", student))
            if ("demographics", student) in self.records:
                found.add(("demographics", student))
        for one in self.of("enrollment"):
            if one["role"] != "student" or one["userSourcedId"] not in cohort:
                continue
            if place(one["classSourcedId"], one["schoolSourcedId"]):
                found.add(("enrollment", one["sourcedId"]))
                classes.add(one["classSourcedId"])
        for one in self.of("attendance") if "attendance" in kinds else ():
            if one["studentSourcedId"] not in cohort or one["eventDate"] < since:
                continue
            if place(one["classSourcedId"], one["schoolSourcedId"]):
                found.add(("attendance", one["sourcedId"]))
                if one["classSourcedId"]:
                    classes.add(one["classSourcedId"])
        for one in self.of("result") if "result" in kinds else ():
            if one["studentSourcedId"] in cohort and one["scoreDate"] >= since:
                item = self.records.get(("lineItem", one["lineItemSourcedId"]))
                class_ = one["classSourcedId"] or (item and item["classSourcedId"])
                about = self.records.get(("class", class_ or ""))
                if rules.schools and about is None:
                    continue
                if (rules.schools or rules.classes) and class_ is None:
                    continue
                if place(class_, about and about["schoolSourcedId"] if rules.schools else None):
                    found.add(("result", one["sourcedId"]))
                    if class_:
                        classes.add(class_)
        need: set[tuple[str, str]] = {("class", one) for one in classes}
        for one in self.of("lineItem"):
            if one["classSourcedId"] in classes:
                found.add(("lineItem", one["sourcedId"]))
        for one in self.of("enrollment"):
            if "staff" not in kinds:
                break
            if one["role"] != "student" and one["classSourcedId"] in classes:
                found.add(("enrollment", one["sourcedId"]))
                need.add(("staff", one["userSourcedId"]))
        above, orgs = set(rules.schools), self.of("org")
        for _ in orgs:
            above |= {
                one["parentSourcedId"]
                for one in orgs
                if one["sourcedId"] in above and one["parentSourcedId"]
            }
        self.above = above

        def org(id_: str) -> bool:
            return not rules.schools or id_ in above

        names = {
            "student": [
                ("org", "orgSourcedIds"),
                ("org", "primaryOrgSourcedId"),
                ("guardian", "agentSourcedIds"),
            ],
            "guardian": [],
            "staff": [("org", "orgSourcedIds")],
            "enrollment": [("org", "schoolSourcedId")],
            "attendance": [("org", "schoolSourcedId")],
            "class": [
                ("org", "schoolSourcedId"),
                ("course", "courseSourcedId"),
                ("academicSession", "termSourcedIds"),
            ],
            "course": [("org", "orgSourcedId"), ("academicSession", "schoolYearSourcedId")],
            "lineItem": [("academicSession", "gradingPeriodSourcedId")],
            "org": [("org", "parentSourcedId")],
            "academicSession": [("academicSession", "parentSourcedId")],
            "result": [],
            "demographics": [],
        }
        todo = [*found, *need]
        done: set[tuple[str, str]] = set()
        while todo:
            key = todo.pop()
            if key in done or key not in self.records or key[0] not in kinds:
                continue
            done.add(key)
            for kind, field in names[key[0]]:
                if field not in kinds[key[0]].fields:
                    continue
                value = self.records[key][field]
                for id_ in value if isinstance(value, list) else [value]:
                    if id_ is not None and (kind != "org" or org(id_)):
                        todo.append((kind, id_))
        return done

    def expected(self, deal: Agreement, day: date) -> dict[tuple[str, str], Record]:
        """Return what the vendor must have."""
        cohort, scope = self.cohort(deal, day), compile_scope(deal)
        found = {}
        for key in self.visible(deal, day):
            kind, id_ = key
            if kind not in scope.kinds:
                continue
            one = {name: self.records[key][name] for name in scope.kinds[kind].fields}
            for name in (
                "orgSourcedIds",
                "primaryOrgSourcedId",
                "orgSourcedId",
                "schoolSourcedId",
                "parentSourcedId",
            ):
                if (
                    name in one
                    and (kind == "org" or name != "parentSourcedId")
                    and deal.students.schools
                ):
                    value = one[name]
                    if isinstance(value, list):
                        one[name] = [x for x in value if x in self.above]
                    elif value not in self.above:
                        one[name] = None
            if kind == "guardian":
                one["agentSourcedIds"] = [
                    student
                    for student in one["agentSourcedIds"]
                    if student in cohort
                    and id_ in self.records["student", student]["agentSourcedIds"]
                ]
            found[key] = one
        return found
