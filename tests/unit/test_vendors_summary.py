"""An agreement is described in the categories of its schedule, and the list says what is due."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from bus.settings import Settings
from bus.vendors.agreement_list import listed
from bus.vendors.applied import Applied
from bus.vendors.proof import Attestation, Certificate
from bus.vendors.summary import markdown, sections, text
from tests.agreements import DAY, an_agreement
from tests.unit.test_vendors_applied import an_applied

DELETED = Certificate(
    datetime(2026, 10, 28, 2, tzinfo=UTC), deleted_at=datetime(2026, 10, 28, 3, tzinfo=UTC)
)


def described(applied: Applied | None = None, **changes: Any) -> dict[str, tuple[str, ...]]:
    found = sections(an_agreement(**changes), applied, DAY)
    return {section.title: section.lines for section in found}


def test_data_is_in_the_agreements_own_categories() -> None:
    share = {
        "categories": ["Student Name", "Transportation"],
        "fields": ["student.grades"],
        "without": ["student.middleName"],
        "why": {"Student Name": "class lists"},
    }
    found = described(share=share)
    name, transport, single, left_out, _ = found["Data"]
    assert name.startswith("Student Name: student (givenName, familyName")
    assert "middleName" not in name and left_out == "Left out: student (middleName)"
    assert transport.startswith("Transportation: nothing")
    assert single == "Single fields: student (grades)"
    assert found["Why the vendor needs this data"] == ("Student Name: class lists",)


def test_students_are_described_in_words() -> None:
    assert described()["Students"][0] == "All students of the district"
    with_a_consent = described(basis="consent")["Students"][0]
    assert with_a_consent == "All students of the district with a consent"
    students = {"schools": ["s1"], "grades": ["06", "07"], "classes": ["c1"], "leave_after": 0}
    found = described(students=students, roles=["teacher", "guardian"])["Students"]
    assert found[0] == (
        "Students of the schools s1, and in the grades 06, 07, and enrolled in the classes c1"
    )
    assert any("teachers" in line for line in found) and any("guardians" in line for line in found)
    assert found[-1] == "A student who leaves is deleted at once."


def test_dates_of_deletion_follow_the_end() -> None:
    first, second = described()["Deletion"]
    assert "2027-08-30" in first and "2027-09-29" in second
    revoked = replace(an_applied(), state="revoked", ended_at=datetime(2026, 12, 1, tzinfo=UTC))
    first, second = described(revoked)["Deletion"]
    assert "2026-12-31" in first and "2027-01-30" in second


@pytest.mark.parametrize(
    ("applied", "state"),
    [
        (None, "not applied"),
        (an_applied(), "active; ends in 245 days"),
        (an_applied(until=date(2026, 11, 29)), "active; ends in 1 day"),
        (an_applied(**{"from": date(2026, 12, 1)}), "begins on 2026-12-01"),
        (an_applied(until=date(2026, 11, 27)), "ended on 2026-11-27"),
        (replace(an_applied(), state="revoked", why="a breach"), "revoked: a breach"),
    ],
)
def test_the_state_in_words(applied: Applied | None, state: str) -> None:
    agreement = applied.agreement if applied else an_agreement()
    assert sections(agreement, applied, DAY)[0].lines[0].startswith(state)


def test_text_and_page() -> None:
    agreement = an_agreement(vendor="Math *& Co* <b>")
    found = sections(agreement, None, DAY)
    assert "\n  Vendor: Math *& Co* <b>\n" in text(found)
    page = markdown(agreement, found)
    assert page.startswith(r"# Data that Math \*& Co\* \<b\> receives for instruction")
    assert "\n## Students\n\n* All students of the district\n" in page


# ---- the list ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("applied", "state", "note"),
    [
        (an_applied(), "active", ""),
        (an_applied(until=date(2026, 12, 29)), "active", ""),
        (an_applied(until=date(2026, 12, 28)), "active", "ends in 30 days"),
        (an_applied(until=DAY), "active", "ends today"),
        (an_applied(**{"from": date(2026, 12, 1)}), "pending", "begins on 2026-12-01"),
        (an_applied(until=date(2026, 11, 27)), "ended", "attestation due on 2027-01-26"),
        (
            replace(an_applied(until=date(2026, 9, 28)), state="ended"),
            "ended",
            "attestation overdue since 2026-11-27, deletion overdue since 2026-10-28",
        ),
        (
            replace(an_applied(), state="revoked", ended_at=datetime(2026, 9, 29, tzinfo=UTC)),
            "revoked",
            "attestation due on 2026-11-28, deletion overdue since 2026-10-29",
        ),
        (
            replace(an_applied(until=date(2026, 9, 28)), state="ended", certificate=DELETED),
            "ended",
            "attestation overdue since 2026-11-27",
        ),
    ],
)
def test_the_list_says_what_is_due(applied: Applied, state: str, note: str) -> None:
    (one,) = listed(Settings(), [applied], {"schoolbus.vendor.math-app.nightly": ()}, DAY)
    assert (one.state, one.note) == (state, note)
    assert one.as_json()["attestationDue"] == (one.due.isoformat() if "due" in note else None)


def test_the_list_says_what_is_attested_and_deleted() -> None:
    over = replace(an_applied(until=date(2026, 9, 28)), state="ended")
    said = Attestation("Ann", date(2026, 10, 2))
    done = replace(over, certificate=DELETED, attestation=said)
    (one,) = listed(Settings(), [done], {}, DAY)
    assert one.note == "attested on 2026-10-02"
    found = one.as_json()
    assert (found["attestedOn"], found["attestationDue"]) == ("2026-10-02", "2026-11-27")
    assert (found["deletedOn"], found["deletionDue"]) == ("2026-10-28", None)
    (one,) = listed(Settings(), [over], {}, DAY)
    assert (one.as_json()["deletedOn"], one.as_json()["deletionDue"]) == (None, "2026-10-28")
    lines = sections(done.agreement, done, DAY)[-1].lines
    assert "deleted the vendor's topics and keys on 2026-10-28" in lines[0]
    assert lines[1] == "The vendor attested its own deletion on 2026-10-02."


def test_a_renewed_agreement_needs_no_attestation_but_a_revoked_one_does() -> None:
    over = replace(an_applied(until=date(2026, 9, 28)), state="ended", certificate=DELETED)
    renewal = an_applied("math-2", renews="math-app")
    first, second = listed(Settings(), [renewal, over], {"schoolbus.vendor.math-2.x": ()}, DAY)
    assert (first.name, first.note, first.due) == ("math-app", "renewed by math-2", None)
    assert second.note == ""
    revoked = replace(over, state="revoked", ended_at=datetime(2026, 9, 1, tzinfo=UTC))
    (first, _) = listed(Settings(), [renewal, revoked], {}, DAY)
    assert first.note == "attestation overdue since 2026-10-31"


def test_the_agreement_that_ends_first_comes_first() -> None:
    entries = [an_applied("b"), an_applied("c", until=date(2026, 12, 1)), an_applied("a")]
    found = listed(Settings(), entries, {}, DAY)
    assert [one.name for one in found] == ["c", "a", "b"]


def test_a_vendor_that_has_never_read_is_marked() -> None:
    late = replace(an_applied("math-2", until=date(2026, 12, 1)), ids_name="math-app")
    groups = {
        "schoolbus.vendor.math-app.nightly": (),
        "schoolbus.vendor.library-2.nightly": (),
        "schoolbus.way.hooked.webhook": (),
    }
    hook = {"ways": [], "webhook": {"url": "https://vendor.example/hook"}}
    entries = [
        late,
        an_applied("library"),
        an_applied("csv", ways=[]),
        an_applied("hooked", **hook),
        an_applied("idle", **hook),
    ]
    found = listed(Settings(), entries, groups, DAY)
    assert {one.name: (one.read, one.note) for one in found} == {
        "math-2": (True, "ends in 3 days"),
        "library": (False, "never read"),
        "csv": (False, ""),
        "hooked": (True, ""),
        "idle": (False, "never read"),
    }


def test_a_vendor_that_reads_late_is_marked() -> None:
    hook = {"webhook": {"url": "https://vendor.example/hook"}}
    entries = [
        an_applied("good"),
        replace(an_applied("math-2", until=date(2026, 12, 1)), ids_name="math-app"),
        an_applied("hooked", **hook),
        an_applied("kafka-now"),
        an_applied("fewer-kinds"),
        an_applied("ended", until=date(2026, 11, 27)),
    ]
    names = ("good", "math-app", "hooked", "kafka-now", "fewer-kinds", "ended")
    students = {name: (f"schoolbus.vendor.{name}.student",) for name in names}
    groups = {
        "schoolbus.vendor.good.nightly": (),
        "schoolbus.vendor.math-app.nightly": students["math-app"],
        "schoolbus.vendor.math-app.a\x1b[1m": students["math-app"],
        "schoolbus.vendor.math-app.live": (),
        "schoolbus.way.hooked.webhook": students["hooked"],
        "schoolbus.way.kafka-now.webhook": students["kafka-now"],
        "schoolbus.vendor.fewer-kinds.app": ("schoolbus.vendor.fewer-kinds.result",),
        "schoolbus.vendor.ended.app": students["ended"],
    }
    found = {one.name: one for one in listed(Settings(), entries, groups, DAY)}
    assert {name: one.note for name, one in found.items() if one.late} == {
        "math-2": r"ends in 3 days, reads late: a\x1b[1m, nightly",
        "hooked": "reads late: webhook",
    }
    assert found["math-2"].as_json()["lateGroups"] == [
        "schoolbus.vendor.math-app.a\x1b[1m",
        "schoolbus.vendor.math-app.nightly",
    ]
    assert found["good"].as_json()["lateGroups"] == []
    assert found["kafka-now"].note == ""
