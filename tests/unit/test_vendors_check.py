"""Each problem of an agreement names the file, the key, and what to do."""

from __future__ import annotations

import hashlib
from dataclasses import replace
from datetime import date
from pathlib import Path
from typing import Any

import pytest

from bus.errors import Stop
from bus.settings import VendorsSettings
from bus.standard import KINDS
from bus.vendors.agreement import faults
from bus.vendors.applied import Applied
from bus.vendors.categories import categories
from bus.vendors.check import AgreementFile, Known, check, load
from bus.vendors.problem import Problem
from bus.vendors.share_check import IDENTIFYING, SCHOOL_FIELDS
from tests.agreements import DAY, a_table, an_agreement
from tests.unit.test_vendors_applied import an_applied

KNOWN = Known(DAY, {}, {"s1", "s2"}, {"c1"})
ROSTER = ["Enrollment", "Schedule"]


def problems(
    known: Known = KNOWN, name: str = "math-app", others: tuple[Any, ...] = (), **changes: Any
) -> list[Problem]:
    """Return the problems of an agreement with these changes, checked with other agreements."""
    one = AgreementFile(Path(f"{name}.toml"), an_agreement(name, **changes))
    rest = [AgreementFile(Path(f"{other.name}.toml"), other) for other in others]
    return check([*rest, one], KINDS, known)


def only(found: list[Problem]) -> tuple[str, str, str]:
    """Return level, key and text of the one problem."""
    (one,) = found
    return one.level, one.key, one.text


def share(*categories: str, **more: Any) -> dict[str, Any]:
    return {"categories": [*ROSTER, *categories], **more}


def applied(*entries: Applied) -> Known:
    return replace(KNOWN, applied={one.name: one for one in entries})


def test_a_correct_agreement_has_no_problem() -> None:
    assert problems() == []


def test_an_unknown_category_is_named_with_the_most_similar_one() -> None:
    level, key, text = only(problems(share=share("Student Naem")))
    assert (level, key) == ("error", "share.categories")
    assert '"Student Naem"' in text and 'Did you mean "Student Name"?' in text
    assert "docs/agreements.md" in only(problems(share=share("Xylophone")))[2]


def test_a_category_without_fields_gives_a_warning() -> None:
    level, key, text = only(problems(share=share("Transportation")))
    assert (level, key) == ("warning", "share.categories")
    assert "no field" in text


def test_an_agreement_that_shares_nothing_is_an_error() -> None:
    found = problems(share={"categories": ["Transportation"]})
    assert ("error", "share") in {(one.level, one.key) for one in found}


@pytest.mark.parametrize("key", ["fields", "without"])
def test_an_unknown_field_is_named_with_the_most_similar_one(key: str) -> None:
    level, where, text = only(problems(share=share(**{key: ["student.grade"]})))
    assert (level, where) == ("error", f"share.{key}")
    assert 'Did you mean "student.grades"?' in text


def test_opt_outs_cannot_be_shared() -> None:
    assert only(problems(share=share(fields=["optOut.scope"])))[0] == "error"


def test_a_field_in_without_that_is_not_shared_gives_a_warning() -> None:
    assert problems(share=share(without=["student.grades"])) == []
    level, key, text = only(problems(share=share(without=["student.email"])))
    assert (level, key) == ("warning", "share.without") and "is not shared anyway" in text
    level, key, text = only(problems(share=share(without=["student.sourcedId"])))
    assert (level, key) == ("error", "share.without") and "cannot be left out" in text


def test_a_sensitive_field_needs_a_reason() -> None:
    level, key, text = only(problems(share=share(fields=["demographics.sex"])))
    assert (level, key) == ("error", "share.why")
    assert text.startswith("demographics.sex is sensitive")
    why = {"demographics.sex": "the study"}
    assert problems(share=share(fields=["demographics.sex"], why=why)) == []


def test_a_reason_may_be_given_by_category_and_counts_for_its_fields_only() -> None:
    why = {"Demographics": "the study"}
    assert problems(share=share("Demographics", why=why)) == []
    found = problems(share=share("Demographics", fields=["student.pronouns"], why=why))
    assert only(found)[2].startswith("student.pronouns is sensitive")


def test_a_reason_for_a_field_that_is_not_shared_gives_a_warning() -> None:
    assert only(problems(share=share(why={"student.email": "x"})))[:2] == ("warning", "share.why")
    assert only(problems(share=share(why={"student.mail": "x"})))[:2] == ("error", "share.why")


@pytest.mark.parametrize("field", sorted(IDENTIFYING))
def test_an_identifying_field_beside_pseudonyms_needs_a_reason(field: str) -> None:
    shared = {"fields": [field], "why": {}}
    roles = ["guardian"]
    found = [
        one
        for one in problems(share=share(**shared), roles=roles)
        if one.key == "share.why" and "pseudonyms" in one.text
    ]
    assert only(found)[0] == "error" and field in found[0].text
    assert all(
        "pseudonyms" not in one.text
        for one in problems(share=share(**shared), roles=roles, identifiers="real")
    )
    shared["why"] = {field: "needed"}
    assert [o for o in problems(share=share(**shared), roles=roles) if o.level == "error"] == []


def test_names_of_teachers_need_no_reason() -> None:
    assert problems(roles=["teacher"]) == []


@pytest.mark.parametrize(
    ("selector", "values", "categories", "missing"),
    [
        ("grades", ["06"], ["Schedule", "Student Name"], "Enrollment"),
        ("schools", ["s1"], ["Attendance", "Student Name"], "Enrollment"),
        ("classes", ["c1"], ["Enrollment"], "Schedule"),
    ],
)
def test_a_selector_needs_the_category_that_it_discloses(
    selector: str, values: list[str], categories: list[str], missing: str
) -> None:
    shared = {"categories": categories, "why": {"Student Name": "class lists"}}
    found = [
        one for one in problems(share=shared, students={selector: values}) if one.level == "error"
    ]
    assert found[0].key == f"students.{selector}" and missing in found[0].text
    shared["categories"] = [*categories, missing]
    assert [
        o for o in problems(share=shared, students={selector: values}) if o.level == "error"
    ] == []


def test_schools_and_classes_exist() -> None:
    level, key, text = only(problems(students={"schools": ["s1", "s9"]}))
    assert (level, key) == ("error", "students.schools") and '"s9"' in text
    level, key, text = only(problems(students={"classes": ["c9"]}))
    assert (level, key) == ("error", "students.classes") and '"c9"' in text


def test_a_warning_says_what_could_not_be_checked() -> None:
    unknown = Known(DAY, None, None, None)
    (one,) = problems(unknown, students={"schools": ["s9"]})
    assert (one.level, one.file) == ("warning", "")
    assert "whether the schools exist" in one.text and "classes" not in one.text


def test_a_grade_that_is_not_a_code_gives_a_warning() -> None:
    level, key, text = only(problems(students={"grades": ["6", "07"]}))
    assert (level, key) == ("warning", "students.grades") and 'Did you mean "06"?' in text


def test_dates_are_in_order_and_not_past() -> None:
    assert only(problems(until=date(2026, 7, 31)))[:2] == ("error", "until")
    past = {"from": date(2025, 8, 1), "until": date(2026, 7, 31)}
    level, key, text = only(problems(**past))
    assert (level, key) == ("error", "until") and "ended on 2026-07-31" in text
    assert only(problems(history=date(2027, 8, 1)))[:2] == ("error", "history")
    assert problems(until=DAY) == []


def test_an_agreement_that_ended_or_was_revoked_cannot_begin_again() -> None:
    past = {"from": date(2025, 8, 1), "until": date(2026, 7, 31)}
    level, _, text = only(problems(applied(an_applied(**past)), **past))
    assert level == "warning" and "You may delete the file" in text
    level, _, text = only(problems(applied(an_applied(**past))))
    assert level == "error" and 'renews = "math-app"' in text
    revoked = replace(an_applied(), state="revoked")
    assert only(problems(applied(revoked)))[0] == "warning"
    level, _, text = only(problems(applied(revoked), roles=["teacher"]))
    assert level == "error" and "was revoked" in text and "another name" in text


def test_the_signed_document_is_the_one_that_is_named(tmp_path: Path) -> None:
    (tmp_path / "dpa.pdf").write_bytes(b"signed")

    def found(sha256: str, file: str = "dpa.pdf") -> list[Problem]:
        document = {"title": "DPA", "sha256": sha256, "file": file}
        one = AgreementFile(tmp_path / "math-app.toml", an_agreement(document=document))
        return check([one], KINDS, KNOWN)

    assert found(hashlib.sha256(b"signed").hexdigest()) == []
    assert only(found("0" * 64))[:2] == ("error", "document.sha256")
    assert only(found("0" * 64, "missing.pdf"))[:2] == ("error", "document.file")


@pytest.mark.parametrize("basis", ["studies", "audit"])
def test_a_study_seldom_needs_real_ids(basis: str) -> None:
    assert problems(basis=basis) == []
    assert only(problems(basis=basis, identifiers="real"))[:2] == ("warning", "identifiers")


def test_a_field_that_is_not_directory_information_gives_a_warning() -> None:
    shared = {
        "categories": ["Enrollment", "Student Name"],
        "without": [
            "student.preferredFirstName",
            "student.preferredMiddleName",
            "student.preferredLastName",
        ],
    }
    how = {"basis": "directory-information", "identifiers": "real"}
    assert problems(share=shared, **how) == []
    level, key, text = only(problems(share=shared | {"fields": ["student.phone"]}, **how))
    assert (level, key) == ("warning", "basis") and "student.phone" in text


def test_people_need_a_role_and_a_role_needs_fields() -> None:
    level, key, text = only(problems(share=share("Parent/Guardian Name")))
    assert (level, key) == ("warning", "roles") and "guardian" in text
    assert only(problems(roles=["guardian"]))[:2] == ("warning", "roles")
    assert only(problems(share={"categories": ["Enrollment"]}, roles=["teacher"]))[1] == "roles"


def test_records_about_students_without_the_students_give_a_warning() -> None:
    level, key, text = only(problems(share={"categories": ["Attendance"]}))
    assert (level, key) == ("warning", "share") and "attendance" in text


@pytest.mark.parametrize(
    ("key", "value"),
    [
        ("ways", ["kafka", "oneroster"]),
        ("returns", ["result"]),
    ],
)
def test_a_way_that_this_version_does_not_serve_is_an_error(key: str, value: Any) -> None:
    level, where, text = only(problems(**{key: value}))
    assert (level, where) == ("error", key)
    assert text.startswith("This version of Schoolbus cannot")


@pytest.mark.parametrize(
    "host", ["10.1.2.3", "127.0.0.1:8443", "localhost", "[fd00::1]", "169.254.169.254", "8.8.4.4"]
)
def test_a_webhook_inside_the_districts_network_is_an_error(host: str) -> None:
    rules = VendorsSettings.model_validate({"internal_networks": ["8.8.4.0/24"]})
    url = f"https://{host}/hook"
    level, key, text = only(problems(replace(KNOWN, vendors=rules), webhook={"url": url}))
    assert (level, key) == ("error", "webhook.url") and "inside the district's network" in text
    assert problems(webhook={"url": "https://vendor.example/hook"}) == []


def test_an_agreement_without_a_way_out_gives_a_warning() -> None:
    assert only(problems(ways=[]))[:2] == ("warning", "ways")


# ---- two agreements ------------------------------------------------------------------------------


def test_agreements_with_one_vendor_and_purpose_have_the_same_basis() -> None:
    other = an_agreement("old", basis="consent", vendor="example  math")
    found = problems(others=(other,))
    assert only(found)[:2] == ("error", "basis") and found[0].file == "math-app.toml"
    assert problems(others=(an_agreement("old", basis="consent", purpose="other"),)) == []
    for first, last in ((2025, 2026), (2027, 2028)):
        dates = {"from": date(first, 8, 1), "until": date(last, 7, 31)}
        apart = an_agreement("old", basis="consent", **dates)
        assert all(one.key != "basis" for one in problems(others=(apart,)))


RENEWAL = {"from": date(2027, 8, 1), "until": date(2028, 7, 31), "renews": "math-app"}


def test_a_renewal_follows_what_it_renews() -> None:
    assert problems(others=(an_agreement(),), name="math-2", **RENEWAL) == []
    assert problems(applied(an_applied()), name="math-2", **RENEWAL) == []
    running = RENEWAL | {"from": date(2027, 7, 31)}
    assert (
        "runs until 2027-07-31"
        in only(problems(others=(an_agreement(),), name="math-2", **running))[2]
    )
    company = RENEWAL | {"vendor": "Another"}
    assert only(problems(others=(an_agreement(),), name="math-2", **company))[1] == "vendor"


def test_a_renewal_names_an_agreement_that_exists() -> None:
    level, key, text = only(problems(name="math-2", **RENEWAL))
    assert (level, key) == ("error", "renews") and "no agreement" in text
    itself = RENEWAL | {"renews": "math-2"}
    assert "renew itself" in only(problems(name="math-2", **itself))[2]
    revoked = replace(an_applied(), state="revoked")
    assert "was revoked" in only(problems(applied(revoked), name="math-2", **RENEWAL))[2]
    unknown = Known(DAY, None, None, None)
    assert [one.key for one in problems(unknown, name="math-2", **RENEWAL)] == [""]


def test_an_applied_renewal_continues_when_the_renewed_agreement_was_revoked() -> None:
    revoked = replace(an_applied(), state="revoked")
    known = applied(revoked, an_applied("math-2", **RENEWAL))
    level, key, text = only(problems(known, name="math-2", **RENEWAL))
    assert (level, key) == ("warning", "renews") and "bus vendors revoke math-2" in text


def test_only_one_agreement_renews_another() -> None:
    others = (an_agreement(), an_agreement("math-1", **RENEWAL))
    assert "Only one" in only(problems(others=others, name="math-2", **RENEWAL))[2]


def test_renews_cannot_change_after_the_agreement_was_applied() -> None:
    known = applied(an_applied(), an_applied("math-2", **RENEWAL))
    changed = RENEWAL | {"renews": ""}
    assert "cannot change" in only(problems(known, name="math-2", **changed))[2]


# ---- files ---------------------------------------------------------------------------------------


def test_each_file_is_read_and_the_form_of_each_is_checked(tmp_path: Path) -> None:
    (tmp_path / "good.toml").write_text(
        'vendor = "V"\npurpose = "p"\nbasis = "audit"\nfrom = 2026-08-01\nuntil = 2027-07-31\n'
        f'document = {{title = "t", sha256 = "{"0" * 64}"}}\n'
        'contacts = {vendor = "v", district = "d"}\nshare = {categories = ["Enrollment"]}\n'
    )
    (tmp_path / "bad.toml").write_text('vendor = "V"\nbasis = "none"\ncategory = "x"\n')
    (tmp_path / "broken.toml").write_text("vendor = ")
    (tmp_path / "Bad Name.toml").write_text("")
    (tmp_path / "README.md").write_text("")
    files, found = load(tmp_path)
    assert [file.agreement.name for file in files] == ["good"]
    assert {one.file for one in found} == {"bad.toml", "broken.toml", "Bad Name.toml"}
    assert {one.key for one in found if one.file == "bad.toml"} >= {"purpose", "basis", "category"}
    assert all(one.level == "error" for one in found)
    with pytest.raises(Stop, match="--agreements DIR"):
        load(tmp_path / "nowhere")


@pytest.mark.parametrize(
    ("changes", "key", "text"),
    [
        ({"vendor": None}, "vendor", "it is missing"),
        ({"basis": "officials"}, "basis", "it must be 'school-official'"),
        ({"until": "next year"}, "until", "write it as 2027-07-31"),
        ({"contact": {}}, "contact", "did you mean contacts?"),
        ({"students": {"grade": ["06"]}}, "students.grade", "did you mean grades?"),
        ({"document": {"title": "t", "sha256": "x"}}, "document.sha256", "64 hexadecimal digits"),
        ({"webhook": {"url": "http://x"}}, "webhook.url", "begins with https://"),
        ({"purpose": "Learning!"}, "purpose", "one word or a few"),
        ({"roles": ["parent"]}, "roles.1", "it must be 'teacher' or 'guardian'"),
        ({"guard": {"share": 2}}, "guard.share", "less than or equal to 1"),
        ({"subprocessors": [{"name": "x"}]}, "subprocessors.1.purpose", "it is missing"),
    ],
)
def test_the_form_is_explained(changes: dict[str, Any], key: str, text: str) -> None:
    ((where, sentence),) = faults("x", a_table(**changes))
    assert where == key and text in sentence


def test_every_field_of_a_category_exists() -> None:
    every = {f"{kind}.{field}" for kind, about in KINDS.items() for field in about.fields}
    assert {field for fields in categories().values() for field in fields} <= every
    assert every >= IDENTIFYING | SCHOOL_FIELDS
