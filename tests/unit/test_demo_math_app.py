"""The vendor of the demo that subscribes under an agreement."""

from __future__ import annotations

from datetime import date
from pathlib import Path

from bus.demo.math_app import NAME, MathApp, Received, write_agreement, write_program
from bus.demo.sample import District
from bus.standard.kinds import KINDS
from bus.vendors import check

DAY = "2026-08-20"


def test_the_agreement_has_no_error_and_no_warning(tmp_path: Path) -> None:
    folder = tmp_path / "agreements"
    write_agreement(folder, "school-0000")
    files, problems = check.load(folder)
    known = check.Known(date.today(), {}, {"school-0000"}, ())
    assert [one.agreement.name for one in files] == [NAME]
    assert problems + check.check(files, KINDS, known) == []


def test_the_program_asks_for_the_agreement_by_name(tmp_path: Path) -> None:
    text = write_program(tmp_path / "vendor" / "reader.py").read_text("utf-8")
    compile(text, "reader.py", "exec")
    assert f'agreement="{NAME}"' in text


def test_what_the_vendor_has_is_the_last_state_of_each_student() -> None:
    note = {"eventDate": DAY}
    app = MathApp(
        [
            Received(1.0, "student", "a", {"givenName": "x"}),
            Received(2.0, "student", "b", {"givenName": "y"}),
            Received(3.0, "attendance", "n", note),
            Received(4.0, "attendance", "n", None),
            Received(5.0, "student", "a", None),
        ]
    )
    assert app.students() == {"b": {"givenName": "y"}}
    assert app.notes(DAY) == [3.0]
    assert app.notes("2026-08-19") == []
    deletion = app.deleted_student()
    assert deletion is not None and deletion.at == 5.0


def test_the_students_of_a_school_are_active_and_at_one_school() -> None:
    district = District(seed=7, students=100, change=0.2)
    found = [set(district.students_of(school, day=2)) for school in range(district.schools)]
    assert not found[0] & found[1]
    active = {
        f"student-{number:07d}"
        for number in range(100 + district.newcomers(2))
        if district.fate(number, 2) not in ("missing", "marked")
    }
    assert found[0] | found[1] == active
    assert len(active) < 100 + district.newcomers(2)
