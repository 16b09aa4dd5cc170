"""A vendor has exactly what a checker computes from the agreement and the district alone."""

from __future__ import annotations

import pickle
from datetime import date, timedelta
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from bus.standard.kinds import KINDS, Record
from bus.vendors.agreement import Agreement, parse
from bus.vendors.cohort import State
from bus.vendors.district_view import DistrictView
from bus.vendors.projected import Outcome
from bus.vendors.projection import Projection
from bus.vendors.record_rules import Change, orgs_above
from bus.vendors.scope import compile_scope
from tests.vendor_checker import District

DAY = date(2026, 9, 1)
CATEGORIES = [
    "Student Name",
    "Enrollment",
    "Schedule",
    "Assessment",
    "Attendance",
    "Demographics",
    "Parent/Guardian Name",
    "Parent/Guardian ID",
]
SCHOOLS, CLASSES, STUDENTS = ("s1", "s2"), ("c1", "c2", "c3"), ("a", "b", "c", "d")


def agreement(**more: Any) -> Agreement:
    table = {
        "vendor": "Sunny Math",
        "purpose": "instruction",
        "basis": "school-official",
        "from": date(2026, 8, 1),
        "until": date(2027, 7, 31),
        "document": {"title": "DPA", "sha256": "0" * 64},
        "contacts": {"vendor": "v@example.com", "district": "d@example.com"},
        "share": {"categories": CATEGORIES},
        "roles": ["teacher", "guardian"],
        "identifiers": "real",
    }
    return parse("math", table | more, "test")


def record(kind: str, id_: str, **values: Any) -> Record:
    """Return a record with plain values for the fields that a test does not set."""
    plain: Record = {}
    for field in KINDS[kind].schema["fields"]:
        if "default" in field:
            plain[field["name"]] = field["default"]
        elif isinstance(field["type"], dict) and field["type"]["type"] == "enum":
            plain[field["name"]] = field["type"]["symbols"][0]
        else:
            plain[field["name"]] = DAY if "date" in str(field["type"]) else ""
    return plain | {"sourcedId": id_, "status": "active"} | values


class Vendor:
    """The vendor's topics: what it has, by key and by the owner that decides the partition."""

    def __init__(self) -> None:
        self.has: dict[tuple[str, str], Record] = {}
        self.place: dict[tuple[str, str], str] = {}

    def receive(self, outcome: Outcome) -> None:
        for one in outcome.sent:
            key = (one.kind, one.id)
            if one.record is not None:
                self.has[key], self.place[key] = one.record, one.owner
            elif self.place.get(key) == one.owner:
                del self.has[key], self.place[key]


class World:
    """A district, its view, and one vendor."""

    def __init__(self, deal: Agreement) -> None:
        self.deal, self.day = deal, DAY
        self.district, self.vendor = District(), Vendor()
        self.view = DistrictView(None, "test", lambda _, value: pickle.loads(value))
        self.above = frozenset(["d"] if deal.students.schools else [])
        self.projection = self.compiled()

    def compiled(self) -> Projection:
        return Projection(compile_scope(self.deal), self.view, lambda id_: id_, self.above)

    def change(self, *new: tuple[str, str, Record | None], budget: int | None = None) -> Outcome:
        changes = {}
        for kind, id_, after in new:
            before = (
                changes[kind, id_].before
                if (kind, id_) in changes
                else self.district.records.get((kind, id_))
            )
            changes[kind, id_] = Change(kind, id_, before, after)
            if after is None:
                self.district.records.pop((kind, id_), None)
            else:
                self.district.records[kind, id_] = after
        self.view.store(
            (one.kind, one.id, one.after, pickle.dumps(one.after) if one.after else None)
            for one in changes.values()
        )
        outcome = self.projection.take(
            [one for one in changes.values() if one.before != one.after], self.day, budget=budget
        )
        self.vendor.receive(outcome)
        return outcome

    def write_again(self) -> None:
        """Write the vendor's topics again, as when the agreement changes."""
        self.projection.forget()
        self.above = orgs_above(self.view, self.deal)
        self.projection = self.compiled()
        self.vendor = Vendor()
        for student in self.view.students_after(None, 100):
            self.vendor.receive(self.projection.look_at([student], self.day))

    def expire(self) -> None:
        self.vendor.receive(self.projection.expire(self.day))


SOME = [
    ("org", "d", {"parentSourcedId": None}),
    ("org", "s1", {"parentSourcedId": "d"}),
    ("org", "s2", {"parentSourcedId": "d"}),
    ("academicSession", "y", {}),
    ("course", "m", {"orgSourcedId": "d", "schoolYearSourcedId": "y"}),
    ("class", "c1", {"courseSourcedId": "m", "schoolSourcedId": "s1", "termSourcedIds": ["y"]}),
    ("class", "c2", {"courseSourcedId": "m", "schoolSourcedId": "s1", "termSourcedIds": ["y"]}),
    ("class", "c3", {"courseSourcedId": "m", "schoolSourcedId": "s2", "termSourcedIds": []}),
    ("staff", "t", {"orgSourcedIds": ["s1", "s2"], "role": "teacher"}),
    ("guardian", "g", {"agentSourcedIds": ["a", "b"]}),
    ("student", "a", {"orgSourcedIds": ["s1"], "grades": ["06"], "agentSourcedIds": ["g"]}),
    ("student", "b", {"orgSourcedIds": ["s1", "s2"], "grades": ["07"], "agentSourcedIds": ["g"]}),
    (
        "enrollment",
        "e1",
        {"classSourcedId": "c1", "schoolSourcedId": "s1", "userSourcedId": "a", "role": "student"},
    ),
    (
        "enrollment",
        "e2",
        {"classSourcedId": "c3", "schoolSourcedId": "s2", "userSourcedId": "b", "role": "student"},
    ),
    (
        "enrollment",
        "e3",
        {"classSourcedId": "c1", "schoolSourcedId": "s1", "userSourcedId": "t", "role": "teacher"},
    ),
    ("lineItem", "l1", {"classSourcedId": "c1"}),
    (
        "result",
        "r1",
        {"lineItemSourcedId": "l1", "studentSourcedId": "a", "scoreStatus": "fullyGraded"},
    ),
]


def start(world: World) -> Outcome:
    return world.change(*((kind, id_, record(kind, id_, **values)) for kind, id_, values in SOME))


def opt_out(student: str, scope: str = "protected", **values: Any) -> Record:
    return record(
        "optOut",
        f"o-{student}",
        studentSourcedId=student,
        scope=scope,
        **({"vendor": None, "purpose": None, "beginDate": None, "endDate": None} | values),
    )


def test_a_vendor_gets_the_selected_school_and_no_other() -> None:
    world = World(agreement(students={"schools": ["s1"]}))
    start(world)
    assert world.vendor.has == world.district.expected(world.deal, DAY)
    assert ("class", "c3") not in world.vendor.has
    assert ("enrollment", "e2") not in world.vendor.has
    assert world.vendor.has["student", "b"]["orgSourcedIds"] == ["s1"]
    assert world.vendor.has["staff", "t"]["orgSourcedIds"] == ["s1"]


def test_referenced_records_come_first() -> None:
    world = World(agreement())
    order = [one.kind for one in start(world).sent]
    assert order == sorted(order, key=list(KINDS).index)


def consent(student: str, scope: str = "vendor", **values: Any) -> tuple[str, str, Record]:
    about = {"vendor": "Sunny Math", "decision": "allow", "decidedBy": "parent", "beginDate": DAY}
    id_ = f"c-{student}"
    return "optOut", id_, opt_out(student, scope, **(about | values)) | {"sourcedId": id_}


def test_on_the_basis_of_consent_only_students_with_a_consent_are_shared() -> None:
    world = World(agreement(basis="consent"))
    start(world)
    assert world.vendor.has == {}
    wrong: list[dict[str, Any]] = [
        {"vendor": "Other"},
        {"vendor": None},
        {"scope": "purpose", "purpose": "instruction"},
        {"scope": "protected"},
        {"scope": "directoryInformation"},
        {"decidedBy": "district"},
        {"decidedBy": "unknown"},
        {"beginDate": DAY + timedelta(days=1)},
        {"endDate": DAY - timedelta(days=1)},
        {"status": "tobedeleted"},
    ]
    for values in wrong:
        world.change(consent("a", **values))
        assert world.vendor.has == {}, values
    for vendor in ("sunny  MATH", "Sunny Math", world.deal.name):
        assert world.change(consent("a", vendor=vendor)).entered == ["a"]
        if vendor != "sunny  MATH":  # the checker compares names as they are
            assert world.vendor.has == world.district.expected(world.deal, DAY)
        assert [id_ for kind, id_ in world.vendor.has if kind == "student"] == ["a"]
        # An opt-out is stronger than a consent. A withdrawn consent takes effect at once.
        assert world.change(("optOut", "o-a", opt_out("a", "purpose", purpose="instruction"))).left
        assert world.vendor.has == {}
        assert world.change(("optOut", "o-a", None)).entered == ["a"]
        assert world.change(consent("a", vendor=vendor, status="tobedeleted")).left == ["a"]
        assert world.vendor.has == {}


def test_a_consent_changes_nothing_on_another_basis() -> None:
    world = World(agreement())
    start(world)
    before = dict(world.vendor.has)
    assert not world.change(consent("a"), consent("b", scope="protected")).sent
    world.change(("optOut", "o-a", opt_out("a")))
    assert ("student", "a") not in world.vendor.has
    world.change(("optOut", "o-a", None))
    assert world.vendor.has == before


def test_an_opt_out_deletes_at_once_and_its_end_brings_everything_back() -> None:
    world = World(agreement())
    start(world)
    outcome = world.change(("optOut", "o-a", opt_out("a", "vendor", vendor="sunny  MATH")))
    assert outcome.left == ["a"]
    assert ("student", "a") not in world.vendor.has
    assert not [one for one in outcome.sent if one.record and one.kind != "guardian"]
    assert world.vendor.has["guardian", "g"]["agentSourcedIds"] == ["b"]
    assert world.change(("optOut", "o-a", None)).entered == ["a"]
    assert world.vendor.has == world.district.expected(world.deal, DAY)


def test_an_opt_out_from_directory_information_leaves_a_child_in_the_learning_system() -> None:
    world = World(agreement())
    start(world)
    world.change(("optOut", "o-a", opt_out("a", "directoryInformation")))
    assert ("student", "a") in world.vendor.has


def test_a_student_who_leaves_through_the_roster_is_withdrawn_and_then_deleted() -> None:
    world = World(agreement(students={"schools": ["s1"], "leave_after": 7}))
    start(world)
    moved = record(
        "student", "a", orgSourcedIds=["s2"], grades=["06"], agentSourcedIds=["g"], givenName="New"
    )
    world.change(("student", "a", moved))
    seen = world.vendor.has["student", "a"]
    assert (seen["status"], seen["givenName"], seen["orgSourcedIds"]) == ("tobedeleted", "", ["s1"])
    assert world.vendor.has["enrollment", "e1"]["status"] == "tobedeleted"
    world.change(("student", "a", moved | {"familyName": "Later"}))
    assert world.vendor.has["student", "a"]["familyName"] == ""
    world.day = DAY + timedelta(days=6)
    world.expire()
    assert ("student", "a") in world.vendor.has
    world.day = DAY + timedelta(days=7)
    world.expire()
    assert world.vendor.has == world.district.expected(world.deal, world.day)


def test_a_student_who_comes_back_before_the_deletion_has_all_records() -> None:
    world = World(agreement(students={"schools": ["s1"]}))
    start(world)
    before = dict(world.vendor.has)
    stays = world.district.records["student", "a"]
    world.change(("student", "a", stays | {"status": "tobedeleted"}))
    world.change(("student", "a", stays))
    assert world.vendor.has == before


def test_a_change_of_a_field_that_is_not_shared_sends_nothing() -> None:
    world = World(agreement())
    start(world)
    stays = world.district.records["student", "a"]
    assert world.change(("student", "a", stays | {"email": "a@example.com"})).sent == []


def test_many_students_who_leave_are_held_until_a_person_allows_it() -> None:
    world = World(agreement(students={"schools": ["s1"], "leave_after": 0}))
    start(world)
    before = dict(world.vendor.has)
    gone = [
        ("student", id_, world.district.records["student", id_] | {"orgSourcedIds": []})
        for id_ in ("a", "b")
    ]
    assert world.change(*gone, budget=1).held == 2
    assert world.vendor.has == before
    assert world.projection.cohort.students(State.HELD) == ["a", "b"]
    world.change(("optOut", "o-b", opt_out("b")), budget=1)  # a decision is not held back
    assert ("student", "b") not in world.vendor.has
    world.vendor.receive(world.projection.look_at(["a", "b"], world.day, release=True))
    assert world.vendor.has == world.district.expected(world.deal, DAY)


# ---- whatever happens ---------------------------------------------------------------------------

ids = st.sampled_from


def rows(kind: str, names: tuple[str, ...], **values: st.SearchStrategy[Any]) -> Any:
    status = st.sampled_from(["active", "active", "active", "tobedeleted"])
    return st.builds(
        lambda id_, status, gone, found: (
            kind,
            id_,
            None if gone else record(kind, id_, **(found | {"status": status})),
        ),
        ids(names),
        status,
        st.integers(0, 9).map(lambda n: n == 0),
        st.fixed_dictionaries(values),
    )


def lists(names: tuple[str, ...]) -> Any:
    return st.lists(ids(names), unique=True, max_size=2)


def maybe(names: tuple[str, ...]) -> Any:
    return st.none() | ids(names)


CHANGE = st.one_of(
    rows("org", SCHOOLS, parentSourcedId=st.just("d"), name=ids(("x", "y"))),
    rows("course", ("m", "n"), orgSourcedId=maybe(SCHOOLS), schoolYearSourcedId=maybe(("y",))),
    rows("academicSession", ("y",), title=ids(("1", "2")), parentSourcedId=st.none()),
    rows(
        "class",
        CLASSES,
        courseSourcedId=ids(("m", "n")),
        schoolSourcedId=ids(SCHOOLS),
        termSourcedIds=lists(("y",)),
    ),
    rows("staff", ("t", "u"), orgSourcedIds=lists(SCHOOLS)),
    rows("guardian", ("g", "h"), agentSourcedIds=lists(STUDENTS)),
    rows(
        "student",
        STUDENTS,
        orgSourcedIds=lists(SCHOOLS),
        grades=lists(("06", "07")),
        agentSourcedIds=lists(("g", "h")),
        givenName=ids(("A", "B")),
    ),
    rows("demographics", STUDENTS, birthDate=ids((date(2012, 1, 1), date(2013, 1, 1)))),
    rows(
        "enrollment",
        ("e1", "e2", "e3", "e4"),
        classSourcedId=ids(CLASSES),
        schoolSourcedId=ids(SCHOOLS),
        userSourcedId=ids(STUDENTS),
        role=st.just("student"),
    ),
    rows(
        "enrollment",
        ("e4", "e5"),
        classSourcedId=ids(CLASSES),
        schoolSourcedId=ids(SCHOOLS),
        userSourcedId=ids(("t", "u", "a")),
        role=st.just("teacher"),
    ),
    rows(
        "lineItem", ("l1", "l2"), classSourcedId=ids(CLASSES), gradingPeriodSourcedId=maybe(("y",))
    ),
    rows(
        "result",
        ("r1", "r2"),
        lineItemSourcedId=ids(("l1", "l2")),
        studentSourcedId=ids(STUDENTS),
        classSourcedId=maybe(CLASSES),
        scoreDate=ids((date(2026, 7, 1), DAY)),
    ),
    rows(
        "attendance",
        ("at1", "at2"),
        studentSourcedId=ids(STUDENTS),
        schoolSourcedId=ids(SCHOOLS),
        classSourcedId=maybe(CLASSES),
        eventDate=ids((date(2026, 7, 1), DAY)),
    ),
    st.builds(
        lambda student, scope, vendor, purpose, begin, decision, by, gone: (
            "optOut",
            f"{decision}-{student}",
            None
            if gone
            else opt_out(
                student,
                scope,
                vendor=vendor,
                purpose=purpose,
                beginDate=begin,
                decision=decision,
                decidedBy=by,
            )
            | {"sourcedId": f"{decision}-{student}"},
        ),
        ids(STUDENTS),
        ids(("protected", "vendor", "purpose", "directoryInformation")),
        ids(("Sunny Math", "Other")),
        ids(("instruction", "research")),
        ids((None, DAY, DAY + timedelta(days=9))),
        ids(("deny", "allow")),
        ids(("parent", "eligibleStudent", "unknown")),
        st.booleans(),
    ),
)

DEALS = st.builds(
    lambda schools, grades, classes, basis, categories, roles: agreement(
        students={"schools": schools, "grades": grades, "classes": classes, "leave_after": 0},
        basis=basis,
        share={"categories": categories},
        roles=roles,
    ),
    lists(SCHOOLS),
    lists(("06", "07")),
    lists(CLASSES),
    ids(("school-official", "directory-information", "consent")),
    st.lists(ids(CATEGORIES[3:]), unique=True).map(lambda more: CATEGORIES[:3] + more),
    st.sampled_from([["teacher", "guardian"], ["guardian"], ["teacher"], []]),
)


@settings(deadline=None)
@given(DEALS, st.lists(st.lists(CHANGE, min_size=1, max_size=8), min_size=1, max_size=6))
def test_the_vendor_has_what_the_agreement_and_the_district_say(
    deal: Agreement, batches: list[list[tuple[str, str, Record | None]]]
) -> None:
    world = World(deal)
    world.change(
        ("org", "d", record("org", "d")),
        *(("org", s, record("org", s, parentSourcedId="d")) for s in SCHOOLS),
    )
    start(world)
    world.expire()
    for batch in batches:
        world.change(*batch)
        world.expire()
        if orgs_above(world.view, deal) != world.above:
            world.write_again()
        assert world.vendor.has == world.district.expected(deal, DAY)
    before = dict(world.vendor.has)
    world.write_again()
    assert world.vendor.has == before
