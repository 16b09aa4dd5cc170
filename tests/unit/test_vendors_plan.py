"""A plan shows what would change: the lines of the file, the fields, and numbers of students."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from bus.vendors.applied import Applied
from bus.vendors.district_counts import CohortCounts, ScopeChange
from bus.vendors.plan import PlannedChange, difference, plan
from bus.vendors.proof import Certificate
from tests.agreements import DAY, an_agreement
from tests.unit.test_vendors_applied import an_applied

MANY = CohortCounts(before=90, after=100, enter=20, leave=10)


def planned(
    *files: Any, applied: tuple[Applied, ...] = (), counts: CohortCounts = MANY, day: date = DAY
) -> dict[str, PlannedChange]:
    asked: dict[str, ScopeChange] = {}

    def count(changes: Mapping[str, ScopeChange]) -> dict[str, CohortCounts]:
        asked.update(changes)
        return dict.fromkeys(changes, counts)

    found = plan(files, {one.name: one for one in applied}, day, count)
    assert asked.keys() == {one.name for one in found if one.counts is not None}
    return {one.name: one for one in found}


def test_a_new_agreement_shows_what_its_file_says() -> None:
    one = planned(an_agreement(students={"grades": ["06", "07"]}))["math-app"]
    assert one.action == "new" and one.counts is MANY
    assert {"+ vendor: Example Math", "+ students.grades: 06", "+ students.grades: 07"} <= set(
        one.lines
    )
    assert not any("leave_after" in line for line in one.lines)
    assert "student.grades" in one.more_fields and one.fewer_fields == ()
    assert not any(field.endswith((".sourcedId", ".status")) for field in one.more_fields)


def test_an_unchanged_agreement_is_not_counted() -> None:
    one = planned(an_agreement(), applied=(an_applied(),))["math-app"]
    assert (one.action, one.lines, one.counts) == ("unchanged", (), None)


def test_a_changed_agreement_shows_the_difference() -> None:
    changed = an_agreement(
        share={
            "categories": ["Enrollment", "Student Name"],
            "why": {"Student Name": "class lists"},
        },
        until=date(2027, 12, 31),
    )
    one = planned(changed, applied=(an_applied(),))["math-app"]
    assert one.action == "changed"
    assert set(one.lines) == {
        "~ until: 2027-07-31 -> 2027-12-31",
        "+ share.categories: Student Name",
        "- share.categories: Schedule",
        "+ share.why.Student Name: class lists",
    }
    assert "student.givenName" in one.more_fields and "enrollment.role" in one.fewer_fields


def test_the_day_after_the_last_day_ends_an_agreement_and_a_missing_file_does_not() -> None:
    late = date(2027, 8, 1)
    one = planned(an_agreement(), applied=(an_applied(),), day=late)["math-app"]
    assert one.action == "ended" and one.lines == ("- the last day was 2027-07-31",)
    assert one.more_fields == () and "student.grades" in one.fewer_fields
    assert planned(applied=(an_applied(),))["math-app"].action == "missing"
    longer = an_agreement(until=date(2028, 7, 31))
    assert planned(longer, applied=(an_applied(),), day=late)["math-app"].action == "ended"


@pytest.mark.parametrize("state", ["revoked", "ended"])
def test_an_agreement_that_is_over_does_not_begin_again(state: Any) -> None:
    over = replace(an_applied(), state=state)
    changed = an_agreement(roles=["teacher"])
    assert planned(changed, applied=(over,))["math-app"].action == "over"


def test_an_agreement_that_ends_soon_gives_a_warning_whatever_its_file_says() -> None:
    soon = {"until": date(2026, 12, 5)}
    said = ("it ends in 7 days, on 2026-12-05",)
    assert planned(an_agreement(**soon), applied=(an_applied(**soon),))["math-app"].warnings == said
    assert planned(applied=(an_applied(**soon),))["math-app"].warnings == said
    assert planned(an_agreement(**soon))["math-app"].warnings[-1:] == said
    later = {"from": date(2026, 12, 6), "until": date(2027, 12, 5), "renews": "math-app"}
    files = an_agreement(**soon), an_agreement("math-2", **later)
    (text,) = planned(*files, applied=(an_applied(**soon),))["math-app"].warnings
    assert text == "it ends in 7 days, on 2026-12-05; math-2 renews it"
    for until in (date(2026, 12, 29), date(2026, 11, 27)):
        old = an_applied(until=until)
        assert planned(old.agreement, applied=(old,))["math-app"].warnings == ()
    longer = planned(an_agreement(), applied=(an_applied(**soon),))["math-app"]
    assert longer.action == "changed" and longer.warnings == ()


def test_the_plan_names_what_apply_will_delete() -> None:
    line = "- topics, groups, users, schemas and key: the agreed 30 days have passed"
    over = replace(an_applied(), state="ended")
    last, due = date(2027, 8, 29), date(2027, 8, 30)
    assert planned(applied=(over,), day=last)["math-app"].lines == ()
    assert planned(applied=(over,), day=due)["math-app"].lines == (line,)
    assert planned(applied=(an_applied(),), day=due)["math-app"].lines[-1] == line
    at = datetime(2027, 8, 30, tzinfo=UTC)
    deleted = replace(over, certificate=Certificate(at, deleted_at=at))
    assert planned(applied=(deleted,), day=due)["math-app"].lines == ()
    begun = replace(over, certificate=Certificate(at))
    assert planned(applied=(begun,), day=last)["math-app"].lines == (line,)


def test_differences_of_tables() -> None:
    before = {"a": 1, "b": {"c": ["x", "y"]}, "d": None, "e": "", "s": [{"name": "n", "for": "p"}]}
    after = {"a": 2, "b": {"c": ["y", "z"]}, "d": "new", "e": [], "s": []}
    assert list(difference(before, after)) == [
        "~ a: 1 -> 2",
        "+ b.c: z",
        "- b.c: x",
        "+ d: new",
        "- s: n, p",
    ]
    assert list(difference(before, before)) == []


# ---- warnings ------------------------------------------------------------------------------------


def warnings(counts: CohortCounts, applied: tuple[Applied, ...] = (), **changes: Any) -> list[str]:
    return list(
        planned(an_agreement(**changes), applied=applied, counts=counts)["math-app"].warnings
    )


def group(size: int, school: str = "s1", grade: str = "06") -> Any:
    return {(((school,), (grade,))): size}


@pytest.mark.parametrize(
    ("after", "text"),
    [(0, "no student today"), (1, "only one student"), (9, "only 9 students")],
)
def test_a_small_cohort_gives_a_warning(after: int, text: str) -> None:
    assert text in warnings(CohortCounts(after=after, groups=Counter(group(after))))[0]
    assert warnings(CohortCounts(after=10, groups=Counter(group(10)))) == []


def test_a_small_group_that_the_vendor_can_see_gives_a_warning() -> None:
    counts = CohortCounts(
        after=60, groups=Counter(group(40) | group(9, grade="07") | group(11, "s2", "07"))
    )
    (text,) = warnings(counts)
    assert "one group of the same school and grade has fewer than 10" in text and "has 9" in text
    assert warnings(counts, identifiers="real") == []
    # Without schools, the vendor sees the 20 students of grade 07 as one group.
    without = ["student.orgSourcedIds", "student.primaryOrgSourcedId"]
    assert warnings(counts, share={"categories": ["Enrollment"], "without": without}) == []


def test_a_small_class_gives_a_warning() -> None:
    counts = CohortCounts(after=60, groups=Counter(group(60)), classes=Counter(c1=9, c2=10))
    assert warnings(counts, students={"classes": ["c1", "c2"]}) == [
        "of class c1 it selects only 9 students"
    ]


def test_a_change_of_all_ids_gives_a_warning() -> None:
    counts = CohortCounts(after=60, groups=Counter(group(60)))
    (text,) = warnings(counts, applied=(an_applied(),), identifiers="real")
    assert "all ids of the vendor change" in text


def test_a_later_beginning_gives_a_warning() -> None:
    found = warnings(MANY, **{"from": date(2026, 12, 1)})
    assert found == ["it begins on 2026-12-01; the vendor receives nothing before that day"]


def test_json_has_the_numbers() -> None:
    found = planned(an_agreement())["math-app"].as_json()
    assert found["students"] == {"before": 90, "after": 100, "enter": 20, "leave": 10}
    assert (
        planned(an_agreement(), applied=(an_applied(),))["math-app"].as_json()["students"] is None
    )
