"""The contracts of an agreement name what its topics hold, and nothing else.

When this was written, datacontract-cli 1.2.8 found the contracts of all kinds valid against the Open
Data Contract Standard 3.1.0 (`datacontract lint`), and the AsyncAPI document was checked against
AsyncAPI's JSON Schema. The tests below check what those say in words.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import yaml
from fastavro import parse_schema

from bus.errors import Stop
from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors.categories import categories
from bus.vendors.contracts import LOGICAL_TYPES, asyncapi_document, data_contract, write
from bus.vendors.vendor_schema import vendor_schema
from tests.unit.test_vendor_schema import scope_of

CONFIG = Settings()
ALL = scope_of(*(field for fields in categories().values() for field in fields))
SOME = scope_of("student.grades", "enrollment.role", "enrollment.userSourcedId")


def contract(kind: str, scope: Any = SOME, **options: Any) -> dict[str, Any]:
    return data_contract(CONFIG, "math-app", scope, kind, **options)


def properties(kind: str, scope: Any = SOME) -> dict[str, dict[str, Any]]:
    (topic,) = contract(kind, scope)["schema"]
    return {one["name"]: one for one in topic["properties"]}


def test_each_topic_has_a_file_and_all_have_one_document(tmp_path: Path) -> None:
    files = write(CONFIG, "math-app", SOME, tmp_path / "new", bootstrap="kafka.example:9093")
    assert {what: path.name for what, path in files.items()} == {
        "student": "schoolbus.vendor.math-app.student.odcs.yaml",
        "enrollment": "schoolbus.vendor.math-app.enrollment.odcs.yaml",
        "asyncapi": "asyncapi.yaml",
    }
    read = yaml.safe_load(files["student"].read_text("utf-8"))
    assert read == contract("student", bootstrap="kafka.example:9093")
    assert read["servers"][0]["host"] == "kafka.example:9093"
    document = yaml.safe_load(files["asyncapi"].read_text("utf-8"))
    assert document == asyncapi_document(CONFIG, "math-app", SOME, bootstrap="kafka.example:9093")


def test_a_folder_that_cannot_be_written_is_said(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Stop, match="--out"):
        write(CONFIG, "math-app", SOME, tmp_path / "file")


@pytest.mark.parametrize("kind", ALL.kinds)
def test_a_contract_has_the_shared_fields_with_their_sensitivity(kind: str) -> None:
    ours = {field["name"]: field for field in KINDS[kind].schema["fields"]}
    found = properties(kind, ALL)
    assert tuple(found) == ALL.kinds[kind].fields
    for name, one in found.items():
        assert one["classification"] == ours[name]["sensitivity"]
        assert one["logicalType"] in LOGICAL_TYPES.values()
        assert one["required"] == (name in ("sourcedId", "status"))


def test_what_is_cut_is_not_named() -> None:
    text = yaml.dump([contract("student"), asyncapi_document(CONFIG, "math-app", SOME)])
    assert "grades" in text
    for word in (
        "givenName",
        "student.email",
        "electronicMail",
        "birth",
        "telephone",
        "traceparent",
    ):
        assert word not in text


def test_the_parts_of_a_property() -> None:
    student, enrollment = properties("student"), properties("enrollment")
    assert student["sourcedId"]["primaryKey"] is True
    assert student["grades"]["items"] == {"logicalType": "string", "physicalType": "string"}
    assert enrollment["userSourcedId"]["customProperties"] == [
        {"property": "references", "value": "student"}
    ]
    (check,) = enrollment["role"]["quality"]
    assert (check["metric"], check["mustBe"]) == ("invalidValues", 0)
    assert "teacher" in check["arguments"]["validValues"]
    assert properties("attendance", ALL)["eventDate"]["logicalType"] == "date"
    assert properties("result", ALL)["score"]["logicalType"] == "number"


def test_what_a_contract_says_of_the_agreement() -> None:
    found = contract("student", status="retired")
    assert (found["apiVersion"], found["kind"]) == ("v3.1.0", "DataContract")
    assert (found["name"], found["status"]) == ("schoolbus.vendor.math-app.student", "retired")
    assert found["description"]["purpose"] == "instruction (school-official)"
    assert {one["property"]: one["value"] for one in found["slaProperties"]} == {
        "generalAvailability": "2026-08-01",
        "endOfSupport": "2027-07-31",
        "retention": 30,
    }
    about = {one["property"]: one["value"] for one in found["customProperties"]}
    assert about["schemaSubject"] == "schoolbus.vendor.math-app.student-value"
    assert about["consumerGroupPrefix"] == "schoolbus.vendor.math-app."
    assert contract("student")["id"] == found["id"] != contract("enrollment")["id"]


def test_a_pseudonym_is_not_called_the_id_of_the_source() -> None:
    assert "pseudonym" in properties("student")["sourcedId"]["description"]
    real = scope_of("student.grades", identifiers="real")
    assert "source system" in properties("student", real)["sourcedId"]["description"]


def test_the_asyncapi_document_has_the_agreements_topics() -> None:
    document = asyncapi_document(CONFIG, "math-app", SOME)
    assert {one["address"] for one in document["channels"].values()} == {
        "schoolbus.vendor.math-app.student",
        "schoolbus.vendor.math-app.enrollment",
    }
    for kind in SOME.kinds:
        payload = document["components"]["messages"][kind]["payload"]
        parse_schema(payload["schema"])
        assert payload["schema"] == vendor_schema(SOME, kind, "math-app")
    assert {one["channel"]["$ref"] for one in document["operations"].values()} == {
        "#/channels/student",
        "#/channels/enrollment",
    }
    assert "erasure" in document["components"]["messages"]
