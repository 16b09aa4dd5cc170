"""OneRoster CSV: rows by example, records with few fields, and zips that are always valid."""

from __future__ import annotations

import json
import stat
import tempfile
import zipfile
from collections.abc import Iterable
from dataclasses import dataclass
from hashlib import sha256
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from pydantic import ValidationError

from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.contract.example_records import a_record, records
from bus.contract.fake_messages import Sent
from bus.delivery import AgreementOver, Batch, Part, Position, Terms
from bus.errors import BusError, RetryLater, Stop
from bus.standard import KINDS
from consumers import oneroster_csv
from consumers.oneroster_csv import COLUMNS, EMPTY, FIELDS, FILES, PRODUCT, OneRosterSet
from tests import oneroster_set_model
from tests.oneroster_set_model import BEGIN, MANIFEST, load

P0, P1 = (Position("schoolbus.enrollment", number) for number in (0, 1))


def delivered_rows(kind: str, /, **said: Any) -> dict[str, list[dict[str, str]]]:
    """Return the rows of a record by file."""
    record = a_record(kind, **said)
    return {table.name: function(record) for table, function in PRODUCT.translations(kind)}


def row(kind: str, name: str, /, **said: Any) -> dict[str, str]:
    """Return the cells of the one row of a record in a file that are not empty."""
    (only,) = delivered_rows(kind, **said)[name]
    return {column: cell for column, cell in only.items() if cell}


@dataclass
class Permission:
    """A permission that a test takes away."""

    error: BusError | None = None

    def check(self) -> None:
        if self.error is not None:
            raise self.error

    def complete(self) -> bool:
        return True

    def outdated(self, message: object) -> bool:
        return False


def under(name: str, edition: str = "1", permission: Permission | None = None) -> Terms:
    """Return the terms of an agreement that shares everything."""
    return Terms(name, edition, FIELDS, permission or Permission())


class Writer:
    """A delivery into a folder, for tests that deliver several times."""

    def __init__(self, out: Path, version: str = "1.1", terms: Terms | None = None) -> None:
        self.out, self._at = out, 0
        settings = PRODUCT.settings.model_validate(
            {"out": out, "version": version}, context={"terms": terms}
        )
        self._delivery = PRODUCT.open(settings)
        self._delivery.resume("cluster", [P0, P1])

    def take(self, kind: str, found: Iterable[dict[str, Any]], partition: int = 0) -> Writer:
        """Deliver records of a kind."""
        made = list(found)
        self._at += len(made)
        sent = [Sent(kind, one["sourcedId"], self._at, partition_=partition) for one in made]
        parts, _, failed = translate(PRODUCT, {kind: KindRecords(made, sent)})  # type: ignore[arg-type]
        assert not failed
        self._delivery.deliver(Batch(parts, {Position(f"schoolbus.{kind}", partition): self._at}))
        return self

    def settle(self) -> oneroster_set_model.State:
        """Write the zip and return its rows."""
        self._delivery.settle()
        return load(self.out / "oneroster.zip")

    def close(self) -> None:
        self._delivery.close()


def test_a_part_is_rebuilt_only_if_its_version_has_other_columns_or_values() -> None:
    def part(kind: str, **values: Any) -> Part:
        records = KindRecords([a_record(kind, **values)], [Sent(kind, "x", 0)])
        return translate(PRODUCT, {kind: records})[0][0]  # type: ignore[arg-type]

    old, new = (OneRosterSet(Path("out"), version) for version in ("1.1", "1.2"))
    school, galaxy = part("org", name="A", type="school"), part("org", name="A", type="other")
    assert old._part(school) is school and old._part(galaxy) is galaxy
    assert new._part(school) is school
    assert [row["type"] for row in new._part(galaxy).rows[0]] == ["ext:other"]  # type: ignore[union-attr]
    assert [row["type"] for row in galaxy.rows[0]] == ["other"]  # type: ignore[union-attr]
    student = part("student", username="x")
    assert "pronouns" not in old._part(student).rows[0][0]  # type: ignore[index,operator]


# ---- rows ------------------------------------------------------------------------------------


def test_a_student() -> None:
    said = {
        "sourcedId": "s1",
        "username": "zoe",
        "givenName": "Zoë",
        "familyName": "O'Brien",
        "preferredLastName": "Brien",
        "grades": ["09", "10"],
        "orgSourcedIds": ["o1", "o2"],
        "primaryOrgSourcedId": "o2",
        "userIds": ["{LDAP:12}"],
        "enabledUser": False,
    }
    assert row("student", "users.csv", **said) == {
        "sourcedId": "s1",
        "enabledUser": "false",
        "orgSourcedIds": "o1,o2",
        "role": "student",
        "username": "zoe",
        "userIds": "{LDAP:12}",
        "givenName": "Zoë",
        "familyName": "O'Brien",
        "grades": "09,10",
        "preferredFamilyName": "Brien",
        "primaryOrgSourcedId": "o2",
    }
    roles = delivered_rows("student", **said)["roles.csv"]
    assert [(one["roleType"], one["role"], one["orgSourcedId"]) for one in roles] == [
        ("primary", "student", "o1"),
        ("primary", "student", "o2"),
    ]
    assert len({one["sourcedId"] for one in roles}) == 2
    assert roles == delivered_rows("student", **said)["roles.csv"], "the ids of roles stay"


@pytest.mark.parametrize(
    ("kind", "role", "in_11", "in_12"),
    [
        ("staff", "teacher", "teacher", "teacher"),
        ("staff", "administrator", "administrator", "siteAdministrator"),
        ("staff", "principal", "administrator", "principal"),
        ("staff", "counselor", "aide", "counselor"),
        ("staff", "other", "aide", "aide"),
        ("guardian", "parent", "parent", "parent"),
        ("guardian", "other", "relative", "relative"),
    ],
)
def test_a_role_is_one_that_the_version_has(kind: str, role: str, in_11: str, in_12: str) -> None:
    made = delivered_rows(kind, role=role)
    assert (made["users.csv"][0]["role"], made["roles.csv"][0]["role"]) == (in_11, in_12)


def test_values_are_written_as_oneroster_has_them() -> None:
    assert row("result", "results.csv", scoreStatus="notSubmitted", score=95.0) == {
        "sourcedId": "sourcedId-1",
        "lineItemSourcedId": "lineItemSourcedId-1",
        "studentSourcedId": "studentSourcedId-1",
        "scoreStatus": "not submitted",
        "score": "95",
        "scoreDate": "2026-11-24",
    }
    assert row("class", "classes.csv", subjects=["Math, Art", "Music"])["subjects"] == (
        "Math  Art,Music"
    )
    assert row("lineItem", "lineItems.csv", resultValueMax=0.1)["resultValueMax"] == "0.1"


@pytest.mark.parametrize("kind", PRODUCT.kinds)
def test_a_record_without_its_fields_has_the_rest_of_its_row(kind: str) -> None:
    """An agreement shares only some fields: the others are null or absent."""
    bare = {"sourcedId": "x1", "status": "active"}
    null = dict.fromkeys(KINDS[kind].fields) | bare
    for table, function in PRODUCT.translations(kind):
        for record in (bare, null):
            (made,) = function(record)
            assert tuple(made) == table.columns
            assert made["userSourcedId" if table.name == "roles.csv" else "sourcedId"] == "x1"
        assert function(bare | {"status": "tobedeleted"}) == []


def test_kinds_without_a_file_are_not_taken() -> None:
    assert set(KINDS) - set(PRODUCT.kinds) == {"attendance", "optOut"}


# ---- the tables ------------------------------------------------------------------------------


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_columns_and_files_are_those_of_the_version(version: Any) -> None:
    described = {
        f"{name}.csv": (BEGIN + columns).replace("!", "").split()
        for name, columns in oneroster_set_model.COLUMNS[version].items()
    }
    assert {name: list(columns) for name, columns in COLUMNS[version].items()} == described
    assert list(FILES[version]) == MANIFEST[version].split()


def test_a_column_has_the_field_that_the_schemas_name() -> None:
    for table in PRODUCT.tables:
        for kind in table.rows if table.name != "roles.csv" else ():
            named = {
                field.get("oneroster", ""): field["name"] for field in KINDS[kind].schema["fields"]
            }
            for column in (set(COLUMNS["1.2"][table.name]) - EMPTY) & set(named):
                assert FIELDS.get(column, column) == named[column], (kind, column)


@pytest.mark.parametrize("version", ["1.1", "1.2"])
def test_every_reference_of_the_standard_is_checked(version: Any) -> None:
    checked = oneroster_csv._references(version)
    for table in PRODUCT.tables:
        found = {one.column: one for one in checked.get(table.name, ())}
        for kind in table.rows if table.name != "roles.csv" else ():
            for column in COLUMNS[version].get(table.name, ()):
                field = FIELDS.get(column, column)
                if field in KINDS[kind].references:
                    must = field in KINDS[kind].required and not found[column].many
                    assert found[column].required == must, (kind, column)
                    assert found[column].lenient


# ---- the zip ---------------------------------------------------------------------------------


def test_without_a_folder_or_with_another_version_it_does_not_start() -> None:
    with pytest.raises(Stop, match="--out DIR"):
        PRODUCT.open(PRODUCT.settings())
    with pytest.raises(ValidationError):
        PRODUCT.settings(version="1.0")


def test_the_zip_is_for_its_owner_alone_and_the_same_rows_are_the_same_bytes(
    tmp_path: Path,
) -> None:
    data = []
    for name in ("one", "two"):
        writer = Writer(tmp_path / name)
        writer.take("org", [a_record("org", sourcedId="o1")]).settle()
        writer.close()
        path = tmp_path / name / "oneroster.zip"
        data.append(path.read_bytes())
        assert stat.S_IMODE(path.stat().st_mode) == 0o600
        assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
        account = json.loads((path.parent / ".schoolbus" / "set.json").read_bytes())
        assert account["files"] == {
            "oneroster.zip": {"rows": 1, "sha256": sha256(data[-1]).hexdigest()}
        }
        with zipfile.ZipFile(path) as archive:
            content = archive.read("orgs.csv")
        assert account["contents"]["orgs.csv"]["sha256"] == sha256(content).hexdigest()
        assert not list((path.parent / ".schoolbus").glob("*.part"))
    assert data[0] == data[1]


def test_a_kind_without_records_is_absent_and_ids_of_it_stay(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.take("class", [a_record("class", sourcedId="c1", courseSourcedId="co1")])
    state = writer.settle()
    assert state.keys() == {"classes"}
    assert state["classes"]["c1"]["courseSourcedId"] == "co1"
    writer.take("course", [a_record("course", sourcedId="co2")])
    assert writer.settle().keys() == {"courses"}, "the class refers to a course that is not there"
    writer.close()


def test_withdrawn_records_leave_the_zip_also_the_last_one(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    student = a_record("student", sourcedId="s1")
    writer._delivery.settle()
    assert not (tmp_path / "oneroster.zip").exists(), "nothing was there yet"
    assert writer.take("student", [student]).settle().keys() == {"users"}
    assert writer.take("student", [student | {"status": "tobedeleted"}]).settle() == {}
    writer.close()


def test_a_deletion_that_does_not_name_the_student_takes_the_rows_of_its_partition(
    tmp_path: Path,
) -> None:
    """In a vendor's topics an enrollment moves from one student to another like this."""

    def place(student: str) -> dict[str, Any]:
        return a_record("enrollment", sourcedId="e1", userSourcedId=student)

    deleted = {"sourcedId": "e1", "status": "tobedeleted"}
    writer = Writer(tmp_path, terms=under("math-app"))
    writer.take("enrollment", [place("s1")], partition=0).settle()
    writer.take("enrollment", [place("s2")], partition=1)
    state = writer.take("enrollment", [deleted], partition=0).settle()
    assert state["enrollments"]["e1"]["userSourcedId"] == "s2"
    writer.take("enrollment", [place("s3"), deleted, place("s4")], partition=1)
    assert writer.settle()["enrollments"]["e1"]["userSourcedId"] == "s4"
    assert writer.take("enrollment", [place("s3"), deleted], partition=1).settle() == {}
    writer.close()


def test_an_enrollment_whose_student_is_shared_later_is_there_once(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    bare = {"sourcedId": "e1", "status": "active", "role": "student"}
    assert writer.take("enrollment", [bare]).settle()["enrollments"]["e1"]["userSourcedId"] == ""
    state = writer.take("enrollment", [bare | {"userSourcedId": "s1"}]).settle()
    assert state["enrollments"]["e1"]["userSourcedId"] == "s1"
    writer.close()


def test_another_version_is_read_from_the_topics_again(tmp_path: Path) -> None:
    writer = Writer(tmp_path)
    writer.take("student", [a_record("student", sourcedId="s1")]).settle()
    writer.close()
    other = PRODUCT.open(PRODUCT.settings(out=tmp_path, version="1.2"))
    assert other.resume("cluster", [Position("schoolbus.student", 0)]) == {
        Position("schoolbus.student", 0): 0
    }
    other.close()


@pytest.mark.parametrize(
    ("error", "stays"),
    [(None, True), (AgreementOver("revoked"), False), (RetryLater("Kafka is down"), True)],
)
def test_the_zip_goes_when_the_agreement_is_over(
    tmp_path: Path, error: BusError | None, stays: bool
) -> None:
    permission = Permission()
    writer = Writer(tmp_path, terms=under("math-app", permission=permission))
    writer.take("student", [a_record("student", sourcedId="s1")]).settle()
    permission.error = error
    writer.close()
    assert (tmp_path / "oneroster.zip").exists() == stays


def test_the_zip_of_another_agreement_in_the_folder_stays(tmp_path: Path) -> None:
    permission = Permission()
    ended = Writer(tmp_path, terms=under("math-app", permission=permission))
    ended.take("student", [a_record("student", sourcedId="s1")]).settle()
    other = Writer(tmp_path, terms=under("library"))
    other.take("student", [a_record("student", sourcedId="s2")]).settle()
    with pytest.raises(Stop, match="another set is written into"):
        ended.take("student", [a_record("student", sourcedId="s3")])
    permission.error = AgreementOver("revoked")
    ended.close()
    assert (tmp_path / "oneroster.zip").exists()
    other.close()


def test_a_changed_agreement_makes_a_new_set(tmp_path: Path) -> None:
    first = Writer(tmp_path, terms=under("math-app", "1"))
    first.take("student", [a_record("student", sourcedId="s1")]).settle()
    first.close()
    second = Writer(tmp_path, terms=under("math-app", "2"))
    state = second.take("student", [a_record("student", sourcedId="s2")]).settle()
    assert set(state["users"]) == {"s2"}
    second.close()


@pytest.mark.parametrize("version", ["1.1", "1.2"])
@settings(
    max_examples=max(4, settings().max_examples // 8),  # each example writes a set
    deadline=None,
    suppress_health_check=list(HealthCheck),
)
@given(data=st.data())
def test_any_records_with_any_fields_make_a_zip_that_an_importer_reads(
    version: str, data: st.DataObject
) -> None:
    ids = st.sampled_from("abc")
    with tempfile.TemporaryDirectory() as folder:
        writer = Writer(Path(folder), version)
        for kind in data.draw(st.sets(st.sampled_from(PRODUCT.kinds), min_size=1)):
            said = {
                name: st.lists(ids, max_size=2, unique=True) if name.endswith("Ids") else ids
                for name in KINDS[kind].fields
                if name.endswith(("ourcedId", "ourcedIds"))
            }
            made = data.draw(st.lists(records(kind, **said), max_size=3))  # type: ignore[arg-type]
            cut = data.draw(st.sets(st.sampled_from(KINDS[kind].fields)))
            cut -= {"sourcedId", "status"}
            writer.take(kind, [{k: v for k, v in one.items() if k not in cut} for one in made])
        writer._delivery.settle()
        path = Path(folder) / "oneroster.zip"
        if path.exists():
            load(path)
        writer.close()
