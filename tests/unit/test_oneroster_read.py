"""Well-formed and careless extracts, and what is read of them."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.errors import Stop
from producers.oneroster_csv import users
from tests.oneroster_files import ORGS, SESSIONS, USERS, extract, fatal, rows, staged

SAMPLES = Path(__file__).parents[1] / "samples"
MANIFEST = "propertyName,value\noneroster.version,1.2\n"
USERS_1_2 = (
    "sourcedId,enabledUser,username,givenName,familyName,primaryOrgSourcedId\n"
    "u1,true,ada,Ada,Lovelace,\n"
    "u2,true,grace,Grace,Hopper,s2\n"
)
ROLES = "sourcedId,status,userSourcedId,roleType,role,beginDate,endDate,orgSourcedId\n"


# ---- users and their roles ------------------------------------------------------------------------


def test_users_become_students_staff_and_guardians(tmp_path: Path) -> None:
    staging = staged(extract(tmp_path / "in", orgs=ORGS, users=USERS), tmp_path / "work")
    assert staging.coverage == dict.fromkeys(("org", "student", "staff", "guardian"), "bulk")
    assert rows(staging, "student", "_file", "_line", "sourcedId", "orgSourcedIds") == [
        ("users.csv", 2, "u1", "s1")
    ]
    assert rows(staging, "staff", "_line", "sourcedId", "role") == [(3, "u2", "teacher")]
    assert rows(staging, "guardian", "_line", "sourcedId", "role") == [(4, "u3", "parent")]
    assert staging.faults == []


def test_a_password_is_never_read(tmp_path: Path) -> None:
    staging = staged(extract(tmp_path / "in", users=USERS), tmp_path / "work")
    for kind in staging.kinds:
        assert "secret" not in repr(staging.con.execute(f"FROM raw_{kind}").fetchall())
    tables = staging.con.execute("SELECT table_name FROM information_schema.tables").fetchall()
    assert {name for (name,) in tables} == {"raw_student", "raw_staff", "raw_guardian"}


@pytest.mark.parametrize(
    "role", ["Teacher", "TEACHER ", "District Administrator", "site_administrator"]
)
def test_a_role_is_known_in_any_spelling(tmp_path: Path, role: str) -> None:
    staging = staged(
        extract(tmp_path / "in", users=USERS.replace("teacher", role)), tmp_path / "work"
    )
    assert rows(staging, "staff", "sourcedId") == [("u2",)]


@pytest.mark.parametrize(("role", "what"), [("", "empty"), ("wizard", "text of 6 characters")])
def test_a_user_of_no_known_role_is_left_out_and_puts_off_withdrawals(
    tmp_path: Path, role: str, what: str
) -> None:
    """The fault has no column and no kind, because the user may be any published person."""
    staging = staged(
        extract(tmp_path / "in", users=USERS.replace("student", role)), tmp_path / "work"
    )
    assert rows(staging, "student", "sourcedId") == []
    (fault,) = fatal(staging)
    assert (fault.file, fault.line, fault.column, fault.kind) == ("users.csv", 2, "", "")
    assert fault.value_class == what
    assert "wizard" not in repr(fault)


def test_roles_of_1_2_say_kind_and_schools(tmp_path: Path) -> None:
    roles = (
        ROLES + "r0,tobedeleted,u2,primary,student,,,s4\n"
        "r1,,u1,primary,student,,,s1\n"
        "r2,,u2,secondary,parent,,,s3\n"
        "r3,,u2,primary,principal,,,s1\n"
        "r4,,u2,secondary,teacher,,,s2\n"
        "r5,tobedeleted,u2,secondary,teacher,,,s4\n"
    )
    staging = staged(
        extract(tmp_path / "in", orgs=ORGS, users=USERS_1_2, roles=roles), tmp_path / "work"
    )
    fields = ("sourcedId", "orgSourcedIds", "primaryOrgSourcedId")
    assert rows(staging, "student", *fields) == [("u1", "s1", "s1")]
    assert rows(staging, "staff", *fields, "role") == [("u2", "s1,s2", "s2", "principal")]
    assert rows(staging, "guardian", "sourcedId") == []
    assert staging.faults == []


def test_who_is_student_and_teacher_is_what_the_primary_role_says(tmp_path: Path) -> None:
    roles = (
        ROLES + "r1,,u1,secondary,student,,,s1\nr2,,u1,primary,teacher,,,s1\n"
        "r3,,u2,primary,teacher,,,s1\nr4,,u2,primary,student,,,s2\n"
    )
    staging = staged(extract(tmp_path / "in", users=USERS_1_2, roles=roles), tmp_path / "work")
    assert rows(staging, "staff", "sourcedId") == [("u1",)]
    assert rows(staging, "student", "sourcedId") == [("u2",)]


def test_a_role_that_stays_goes_before_one_that_was_deleted(tmp_path: Path) -> None:
    roles = ROLES + "r1,tobedeleted,u2,primary,student,,,s4\nr2,,u2,secondary,aide,,,s1\n"
    staging = staged(extract(tmp_path / "in", users=USERS_1_2, roles=roles), tmp_path / "work")
    assert rows(staging, "staff", "sourcedId", "orgSourcedIds") == [("u2", "s1")]


def test_a_misspelt_primary_role_does_not_make_a_student_a_parent(tmp_path: Path) -> None:
    roles = (
        ROLES
        + "r1,,u1,primary,studnt,,,s1\nr2,,u1,secondary,parent,,,s1\nr3,,u2,primary,aide,,,s1\n"
    )
    staging = staged(extract(tmp_path / "in", users=USERS_1_2, roles=roles), tmp_path / "work")
    assert rows(staging, "guardian", "sourcedId") == []
    assert [(f.file, f.line, f.column) for f in fatal(staging)] == [
        ("roles.csv", 2, "role"),
        ("users.csv", 2, ""),
    ]


def test_roles_need_no_ids_of_their_own(tmp_path: Path) -> None:
    """No record refers to a role."""
    roles = "userSourcedId,role,orgSourcedId\nu1,student,s1\nu2,aide,s1\n"
    staging = staged(extract(tmp_path / "in", users=USERS_1_2, roles=roles), tmp_path / "work")
    assert rows(staging, "student", "sourcedId", "orgSourcedIds") == [("u1", "s1")]


def test_a_withdrawn_user_whose_roles_are_withdrawn_keeps_its_kind(tmp_path: Path) -> None:
    roles = ROLES + "r1,tobedeleted,u1,primary,student,,,s1\nr2,,u2,primary,aide,,,s1\n"
    staging = staged(extract(tmp_path / "in", users=USERS_1_2, roles=roles), tmp_path / "work")
    assert rows(staging, "student", "sourcedId", "orgSourcedIds") == [("u1", None)]


def test_roles_that_hold_only_changes_withdraw_nobody(tmp_path: Path) -> None:
    manifest = MANIFEST + "file.users,bulk\nfile.roles,delta\n"
    roles = ROLES + "r1,,u1,primary,student,,,s1\nr2,,u2,primary,aide,,,s1\n"
    staging = staged(
        extract(tmp_path / "in", manifest=manifest, users=USERS_1_2, roles=roles),
        tmp_path / "work",
    )
    assert staging.coverage == {"student": "delta", "staff": "delta"}


def test_users_without_roles_anywhere_are_not_read(tmp_path: Path) -> None:
    staging = staged(extract(tmp_path / "in", orgs=ORGS, users=USERS_1_2), tmp_path / "work")
    assert staging.coverage == {"org": "bulk"}
    assert [(f.file, f.line, f.column) for f in fatal(staging)] == [("users.csv", 1, "role")]


def test_many_users_of_no_known_role_are_counted(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(users, "MOST", 2)
    text = USERS + "u9,true,s1,wizard,x,X,Y,z\n" * 5
    staging = staged(extract(tmp_path / "in", users=text), tmp_path / "work")
    assert [(f.line, f.reason[:12]) for f in fatal(staging)] == [
        (5, "the role is "),
        (6, "the role is "),
        (0, "3 more rows "),
    ]


# ---- the manifest ---------------------------------------------------------------------------------


def test_delta_is_taken_as_changes(tmp_path: Path) -> None:
    manifest = MANIFEST + "file.orgs,Delta\nfile.users,DELTA\n"
    staging = staged(
        extract(tmp_path / "in", manifest=manifest, orgs=ORGS, users=USERS), tmp_path / "work"
    )
    assert staging.coverage == dict.fromkeys(("org", "student", "staff", "guardian"), "delta")


def test_without_a_manifest_all_is_bulk_with_a_note(tmp_path: Path) -> None:
    staging = staged(extract(tmp_path / "in", manifest="", orgs=ORGS), tmp_path / "work")
    assert staging.coverage == {"org": "bulk"}
    assert [(f.file, f.fatal) for f in staging.faults] == [("manifest.csv", False)]


@pytest.mark.parametrize(
    ("line", "coverage"),
    [
        ("file.orgs,absent", {}),
        ("file.orgs,everything", {"org": "delta"}),
        ("file.users,bulk", {"org": "delta"}),
        ("file.orgs,bulk\nfile.orgs,delta", {"org": "delta"}),
        ("file.orgs,delta\nfile.orgs,bulk", {"org": "delta"}),
        ("", {"org": "delta"}),
    ],
)
def test_what_the_manifest_leaves_open_withdraws_nothing(
    tmp_path: Path, line: str, coverage: dict[str, str]
) -> None:
    staging = staged(
        extract(tmp_path / "in", manifest=MANIFEST + line, orgs=ORGS), tmp_path / "work"
    )
    assert staging.coverage == coverage


@pytest.mark.parametrize("encoding", ["utf-16", "utf-16-be", "utf-8-sig"])
def test_a_manifest_in_excels_encodings_is_read(tmp_path: Path, encoding: str) -> None:
    manifest = (MANIFEST + "file.orgs,bulk\n").encode(encoding)
    staging = staged(extract(tmp_path / "in", manifest=manifest, orgs=ORGS), tmp_path / "work")
    assert staging.coverage == {"org": "bulk"}
    assert staging.faults == []


def test_the_columns_of_roles_are_known(tmp_path: Path) -> None:
    roles = (
        "sourcedId,status,dateLastModified,userSourcedId,roleType,role,beginDate,endDate,"
        "orgSourcedId,userProfileSourcedId\nr1,,,u1,primary,student,,,s1,\n"
    )
    manifest = MANIFEST + "file.users,bulk\nfile.roles,bulk\n"
    staging = staged(
        extract(tmp_path / "in", manifest=manifest, users=USERS_1_2, roles=roles),
        tmp_path / "work",
    )
    assert not [fault for fault in staging.faults if fault.file == "roles.csv"]


def test_users_whose_roles_are_in_another_file_are_known_by_no_hash(tmp_path: Path) -> None:
    """A change in roles.csv alone does not change the text of users.csv."""
    roles = "sourcedId,userSourcedId,roleType,role,orgSourcedId\nr1,u1,primary,student,s1\n"
    files = {"users": USERS_1_2, "roles": roles, "orgs": ORGS}
    staging = staged(extract(tmp_path / "in", **files), tmp_path / "work")
    hashed = "SELECT count(*), count(_raw) FROM"
    assert staging.con.execute(f"{hashed} raw_student").fetchall() == [(1, 0)]
    assert staging.con.execute(f"{hashed} raw_org").fetchall() == [(2, 2)]


def test_a_declared_file_that_is_missing_changes_nothing(tmp_path: Path) -> None:
    manifest = MANIFEST + "file.orgs,bulk\nfile.users,bulk\nfile.enrollments,delta\n"
    staging = staged(extract(tmp_path / "in", manifest=manifest, orgs=ORGS), tmp_path / "work")
    assert staging.coverage == {"org": "bulk"}
    assert sorted(f.file for f in fatal(staging)) == ["enrollments.csv", "users.csv"]


# ---- the other files ------------------------------------------------------------------------------


def test_opt_outs_have_a_file_and_without_it_none_is_withdrawn(tmp_path: Path) -> None:
    text = "sourcedId,studentSourcedId,scope\no1,u1,protected\n"
    staging = staged(extract(tmp_path / "in", users=USERS, optOuts=text), tmp_path / "work")
    assert staging.coverage["optOut"] == "bulk"
    assert rows(staging, "optOut", "sourcedId", "studentSourcedId", "scope") == [
        ("o1", "u1", "protected")
    ]
    assert staging.faults == []
    without = staged(extract(tmp_path / "without", users=USERS), tmp_path / "work")
    assert "optOut" not in without.coverage


def test_attendance_is_history_whatever_the_manifest_says(tmp_path: Path) -> None:
    text = "sourcedId,studentSourcedId,schoolSourcedId,eventDate,attendanceEventCategory\na1,u1,s1,2026-09-05,tardy\n"
    staging = staged(extract(tmp_path / "in", attendance=text), tmp_path / "work")
    assert staging.coverage == {"attendance": "delta"}


def test_a_file_that_cannot_be_read_leaves_its_kind_alone(tmp_path: Path) -> None:
    staging = staged(
        extract(tmp_path / "in", orgs="no header\nat all\n", academicSessions=SESSIONS),
        tmp_path / "work",
    )
    assert staging.coverage == {"academicSession": "bulk"}
    assert [(f.file, f.line, f.kind) for f in fatal(staging)] == [("orgs.csv", 1, "org")]


def test_a_row_of_users_that_cannot_be_read_may_be_of_any_kind(tmp_path: Path) -> None:
    staging = staged(extract(tmp_path / "in", users=USERS + "u4,true\n"), tmp_path / "work")
    assert [(f.line, f.column, f.kind) for f in fatal(staging)] == [(5, "", "")]


def test_values_are_passed_on_unchanged(tmp_path: Path) -> None:
    """Capitals, odd dates, repeated ids and dangling references are left to the integrity check."""
    text = (
        "sourcedId,classSourcedId,userSourcedId,role,primary,beginDate\n"
        "e1,nothing,u1,Student,TRUE,9/1/2026\ne1,nothing,u1,Student,TRUE,20260901\n"
    )
    staging = staged(extract(tmp_path / "in", enrollments=text), tmp_path / "work")
    assert rows(staging, "enrollment", "sourcedId", "role", "primary", "beginDate") == [
        ("e1", "Student", "TRUE", "9/1/2026"),
        ("e1", "Student", "TRUE", "20260901"),
    ]
    assert staging.faults == []


def test_file_names_in_any_spelling_and_others_reported_by_number(tmp_path: Path) -> None:
    folder = extract(tmp_path / "in", Academic_Sessions=SESSIONS, marker="a\n", categories="a\n")
    staging = staged(folder, tmp_path / "work")
    assert set(staging.coverage) == {"academicSession"}
    assert "1 CSV files are not OneRoster files" in staging.faults[0].reason
    assert "marker" not in repr(staging.faults)


def test_what_is_no_extract_is_refused(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="none of the files of OneRoster"):
        staged(extract(tmp_path / "a", marker="a\n"), tmp_path / "work")
    with pytest.raises(Stop, match=r"two files for users\.csv"):
        staged(extract(tmp_path / "b", users=USERS, Users=USERS), tmp_path / "work")


# ---- samples from other parties -------------------------------------------------------------------


def test_the_sample_of_a_careless_client(tmp_path: Path) -> None:
    staging = staged(SAMPLES / "moodle-plugin-oneroster-1.1.zip", tmp_path)
    counts = {kind: len(rows(staging, kind, "_line")) for kind in staging.kinds}
    assert counts == {
        "org": 1,
        "academicSession": 5,
        "class": 2,
        "enrollment": 6,
        "student": 3,
        "staff": 2,
        "guardian": 1,
    }
    assert set(staging.coverage.values()) == {"bulk"}
    assert staging.faults == []
    assert rows(staging, "class", "termSourcedIds")[1] == ("as-trm-222-1234,as-trm-222-1235",)


def test_the_sample_of_a_district(tmp_path: Path) -> None:
    """Its second day has names outside ASCII, and quotes and commas inside values."""
    staging = staged(SAMPLES / "district-oneroster-1.1-2026-11-25.zip", tmp_path)
    counts = {kind: len(rows(staging, kind, "_line")) for kind in staging.kinds}
    assert counts == {
        "org": 5,
        "academicSession": 3,
        "course": 40,
        "class": 80,
        "demographics": 1194,
        "enrollment": 5466,
        "student": 1204,
        "staff": 40,
        "guardian": 0,
    }
    assert staging.faults == []
