"""The registry's rules, with a fake of Confluent's client. Integration tests use a real registry."""

from __future__ import annotations

import copy
import inspect
import json
import ssl
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from bus.errors import Never, RetryLater, Stop
from bus.registry import subjects
from bus.registry.registry_client import (
    RegisteredSchema,
    RegistryClient,
    RegistryError,
    answered,
    client,
)
from bus.settings import RegistrySettings, Settings
from bus.standard import KINDS
from bus.standard.meaning import meaning

SETTINGS = Settings(topic_prefix="schoolbus", registry=RegistrySettings(url="http://registry"))
STRICT = "FULL_TRANSITIVE"


class Registry:
    """The content of a schema registry, with the part of Confluent's client that the bus uses.

    texts:    the schemas of each subject, in order; an id is the place among all of them.
    refuses:  whether the registry calls a schema incompatible, called with (subject, level).
    fails_on: the subject at whose registration the registry goes down.
    """

    def __init__(self) -> None:
        self.texts: dict[str, list[str]] = {}
        self.ids: list[str] = []
        self.levels: dict[str, Any] = {}
        self.refuses: Callable[[str, Any], bool] = lambda subject, level: False
        self.fails_on = ""

    def __enter__(self) -> Registry:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def subjects(self) -> list[str]:
        return list(self.texts)

    def versions(self, subject: str) -> list[int]:
        return [n for n, _ in enumerate(self._of(subject), 1)]

    def version(self, subject: str, number: int | None = None) -> RegisteredSchema:
        texts = self._of(subject)
        at = number or len(texts)
        return RegisteredSchema(self.ids.index(texts[at - 1]) + 1, at, texts[at - 1])

    def schema(self, schema_id: int) -> str:
        if not 0 < schema_id <= len(self.ids):
            raise RegistryError(404, 40403, f"Schema {schema_id} not found")
        return self.ids[schema_id - 1]

    def lookup(self, subject: str, text: str) -> RegisteredSchema:
        texts = self._of(subject)
        if text not in texts:
            raise RegistryError(404, 40403, "Schema not found")
        return self.version(subject, texts.index(text) + 1)

    def is_compatible(self, subject: str, text: str) -> bool:
        return not self.refuses(subject, self.levels.get(subject))

    def set_compatibility(self, subject: str, level: str) -> None:
        self.levels[subject] = level

    def register_schema(self, subject: str, text: str) -> int:
        if subject == self.fails_on:
            raise RegistryError(503, 50003, "no leader")
        self.texts.setdefault(subject, []).append(text)
        if text not in self.ids:
            self.ids.append(text)
        return self.ids.index(text) + 1

    def has(self, kind: str, schema: dict[str, Any]) -> None:
        """Add one more version of a kind's schema."""
        text = json.dumps(schema, ensure_ascii=False)
        self.register_schema(f"schoolbus.{kind}-value", text)

    def _of(self, subject: str) -> list[str]:
        if subject not in self.texts:
            raise RegistryError(404, 40401, f"Subject '{subject}' not found.")
        return self.texts[subject]


@pytest.fixture
def there(monkeypatch: pytest.MonkeyPatch) -> Registry:
    """Return an empty registry with which all of `bus.registry.subjects` works."""
    found = Registry()
    monkeypatch.setattr(subjects, "client", lambda settings: found)
    return found


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Return a folder with all schemas of the standard, which a test may change."""
    for kind, about in KINDS.items():
        write(tmp_path, kind, about.schema)
    return tmp_path


def write(folder: Path, kind: str, schema: Any) -> None:
    (folder / f"{kind}.avsc").write_text(json.dumps(schema), "utf-8")


def without(kind: str, *fields: str) -> dict[str, Any]:
    """Return a kind's schema without some of its fields."""
    schema = copy.deepcopy(KINDS[kind].schema)
    schema["fields"] = [field for field in schema["fields"] if field["name"] not in fields]
    return schema


def with_field(kind: str, **field: Any) -> dict[str, Any]:
    schema = copy.deepcopy(KINDS[kind].schema)
    schema["fields"].append(field)
    return schema


def test_the_stand_in_has_no_method_that_the_client_has_not() -> None:
    for name, method in inspect.getmembers(Registry, inspect.isfunction):
        if not name.startswith("_") and name != "has":
            theirs = inspect.signature(getattr(RegistryClient, name)).parameters
            ours = inspect.signature(method).parameters
            assert list(ours) == list(theirs)[: len(ours)]


# Producers look up schemas.


def test_a_producer_gets_the_id_of_every_schema(there: Registry) -> None:
    subjects.apply(SETTINGS)
    ids = subjects.lookup(SETTINGS)
    assert ids.keys() == KINDS.keys()
    assert all(json.loads(there.ids[ids[kind] - 1]) == KINDS[kind].schema for kind in KINDS)


def test_a_producer_does_not_start_on_an_empty_registry(there: Registry) -> None:
    with pytest.raises(Stop) as caught:
        subjects.lookup(SETTINGS)
    said = "no schema of the standard is registered yet: run `bus schemas apply`"
    assert str(caught.value) == said
    assert there.texts == {}, "and registers nothing"


def test_of_many_missing_schemas_some_are_named(there: Registry) -> None:
    for kind in KINDS:
        there.has(kind, without(kind, KINDS[kind].fields[-1]))
    with pytest.raises(Stop, match="bus schemas apply") as caught:
        subjects.lookup(SETTINGS)
    assert f"and {len(KINDS) - 3} more are not registered as this version defines" in str(
        caught.value
    )
    assert len(str(caught.value)) < 250


def test_a_producer_learns_which_schemas_are_missing(there: Registry) -> None:
    for kind in KINDS.keys() - {"student"}:
        there.has(kind, KINDS[kind].schema)
    there.has("student", without("student", "pronouns"))
    with pytest.raises(Stop, match=r"schema schoolbus\.student-value is not registered"):
        subjects.lookup(SETTINGS)


def test_a_kind_that_came_with_an_upgrade_stops_only_who_publishes_it(there: Registry) -> None:
    for kind in KINDS.keys() - {"optOut"}:
        there.has(kind, KINDS[kind].schema)
    ids = subjects.lookup(SETTINGS)
    assert ids.keys() == KINDS.keys() - {"optOut"}
    subjects.require(SETTINGS, ids, ["student", "attendance"])
    said = r"schema schoolbus\.optOut-value is not registered .*: run `bus schemas apply`"
    with pytest.raises(RetryLater, match=said):
        subjects.require(SETTINGS, ids, ["student", "optOut"])


# An upgrade that changes nothing in the bytes of a record needs no new registration.


def without_attributes(schema: Any) -> dict[str, Any]:
    """Return a schema as an earlier version had it: other texts, and only Avro's own attributes."""
    older: dict[str, Any] = copy.deepcopy(schema)
    for attribute in ("school", "student", "retention", "bytesOnDisk"):
        older.pop(attribute, None)
    older["doc"] = "Other words."
    for field in older["fields"]:
        field.pop("edfi", None)
    return older


def test_after_an_upgrade_a_producer_starts_with_what_was_registered_before(
    there: Registry,
) -> None:
    for kind, about in KINDS.items():
        there.has(kind, without_attributes(about.schema))
    before = copy.deepcopy(there.texts)
    old = subjects.lookup(SETTINGS)
    assert [there.ids[old[kind] - 1] for kind in KINDS] == [
        there.texts[f"schoolbus.{kind}-value"][0] for kind in KINDS
    ]
    assert there.texts == before, "and registers nothing"

    assert {finding.state for finding in subjects.check(SETTINGS)} == {"compatible"}
    applied = {one.kind: one.id for one in subjects.apply(SETTINGS) if one.registered}
    assert applied.keys() == KINDS.keys()
    assert subjects.lookup(SETTINGS) == applied
    assert not set(applied.values()) & set(old.values())


def test_of_the_versions_that_mean_the_same_the_latest_counts(there: Registry) -> None:
    for kind, about in KINDS.items():
        there.has(kind, about.schema)
    schema = KINDS["student"].schema
    there.texts["schoolbus.student-value"].clear()
    there.has("student", without_attributes(schema))
    there.has("student", without_attributes(schema) | {"doc": "Still other words."})
    there.has("student", with_field("student", name="house", type="string", default=""))
    assert subjects.lookup(SETTINGS)["student"] == len(there.ids) - 1


def test_another_default_is_another_schema(there: Registry) -> None:
    """A reader uses the default for a field that the writer does not have."""
    for kind, about in KINDS.items():
        there.has(kind, about.schema)
    schema = without_attributes(KINDS["course"].schema)
    field = next(
        field for field in schema["fields"] if "default" in field and field["default"] == []
    )
    field["default"] = ["other"]
    there.texts["schoolbus.course-value"].clear()
    there.has("course", schema)
    with pytest.raises(Stop, match=r"schema schoolbus\.course-value is not registered"):
        subjects.lookup(SETTINGS)


def test_only_what_a_reader_goes_by_has_a_meaning() -> None:
    field = {"name": "a", "type": "string", "default": {"doc": "kept"}, "doc": "x", "later": 1}
    assert meaning({"type": "record", "doc": "x", "name": "R", "fields": [field]}) == {
        "type": "record",
        "name": "R",
        "fields": [{"name": "a", "type": "string", "default": {"doc": "kept"}}],
    }


# `check` reports what would break.


def test_on_an_empty_registry_all_is_new(there: Registry) -> None:
    assert {finding.state for finding in subjects.check(SETTINGS)} == {"new"}


def test_after_apply_nothing_is_changed(there: Registry) -> None:
    subjects.apply(SETTINGS)
    assert {finding.state for finding in subjects.check(SETTINGS)} == {"unchanged"}


def test_a_field_with_a_default_is_compatible(there: Registry, folder: Path) -> None:
    subjects.apply(SETTINGS)
    write(folder, "student", with_field("student", name="house", type="string", default=""))
    found = {finding.kind: finding.state for finding in subjects.check(SETTINGS, folder)}
    assert found.pop("student") == "compatible"
    assert set(found.values()) == {"unchanged"}


def test_check_says_the_field_the_reason_and_for_whom(there: Registry, folder: Path) -> None:
    subjects.apply(SETTINGS)
    write(folder, "student", without("student", "givenName"))
    write(folder, "result", with_field("result", name="weight", type="double"))
    takers = {"student": ("canvas",)}
    findings = subjects.check(SETTINGS, folder, takers)
    broken = {f.kind: f for f in findings if f.state == "incompatible"}
    assert broken.keys() == {"student", "result"}
    assert broken["student"].subject == "schoolbus.student-value"
    assert broken["student"].products == ("canvas",)
    assert broken["student"].reasons == (
        "field givenName: it is removed, and there is no default to use instead; it breaks "
        "consumers that still use version 1 (here: canvas), on records of new producers",
    )
    assert broken["result"].reasons == (
        "field weight: it is added, and there is no default to use instead; it breaks consumers "
        "of the new version, on records that are stored in version 1 or that producers still write "
        "with it",
    )


def test_every_earlier_version_counts(there: Registry, folder: Path) -> None:
    """FULL_TRANSITIVE: a field may not return with another type two versions later."""
    there.has("student", with_field("student", name="house", type="string", default=""))
    there.has("student", KINDS["student"].schema)
    write(folder, "student", with_field("student", name="house", type="int", default=0))
    (student,) = (f for f in subjects.check(SETTINGS, folder) if f.kind == "student")
    assert student.state == "incompatible"
    assert len(student.reasons) == 2
    assert all("field house" in why and "version 1" in why for why in student.reasons)


def test_the_same_break_in_two_versions_is_reported_once(there: Registry, folder: Path) -> None:
    there.has("student", without("student", "pronouns"))
    there.has("student", KINDS["student"].schema)
    write(folder, "student", without("student", "familyName"))
    (student,) = (f for f in subjects.check(SETTINGS, folder) if f.kind == "student")
    (reason,) = student.reasons
    assert "version 1, 2" in reason


def test_what_we_find_broken_is_broken_though_the_registry_has_it(there: Registry) -> None:
    """The schema was registered before the registry's compatibility level was strict."""
    there.has("org", without("org", "name"))
    there.has("org", KINDS["org"].schema)
    (org,) = (f for f in subjects.check(SETTINGS) if f.kind == "org")
    assert org.state == "incompatible"
    assert "field name" in org.reasons[0]


def test_what_the_registry_calls_broken_is_broken_though_we_do_not_see_where(
    there: Registry, folder: Path
) -> None:
    subjects.apply(SETTINGS)
    there.refuses = lambda subject, level: True
    write(folder, "org", with_field("org", name="motto", type="string", default=""))
    (org,) = (f for f in subjects.check(SETTINGS, folder) if f.kind == "org")
    assert org.state == "incompatible"
    assert "without the field" in org.reasons[0]


# `apply` registers all schemas or none.


def test_apply_registers_every_schema_strictly_and_once(there: Registry) -> None:
    first = subjects.apply(SETTINGS)
    assert {one.kind for one in first} == KINDS.keys()
    assert all(one.registered and one.version == 1 and one.id > 0 for one in first)
    assert there.levels == {f"schoolbus.{kind}-value": STRICT for kind in KINDS}
    again = subjects.apply(SETTINGS)
    assert not any(one.registered for one in again)
    assert [one.id for one in again] == [one.id for one in first]
    assert all(len(versions) == 1 for versions in there.texts.values())


def test_apply_registers_only_what_is_new(there: Registry, folder: Path) -> None:
    subjects.apply(SETTINGS)
    write(folder, "student", with_field("student", name="house", type="string", default=""))
    new = [one for one in subjects.apply(SETTINGS, folder) if one.registered]
    assert [(one.kind, one.version) for one in new] == [("student", 2)]


def test_one_incompatible_schema_keeps_all_out(there: Registry, folder: Path) -> None:
    there.has("student", KINDS["student"].schema)
    before = copy.deepcopy(there.texts)
    write(folder, "student", without("student", "givenName"))
    with pytest.raises(Stop, match="nothing was registered") as caught:
        subjects.apply(SETTINGS, folder)
    assert "schoolbus.student-value: field givenName: it is removed" in str(caught.value)
    assert there.texts == before
    assert there.levels == {}, "nor is anything set"


def test_the_verdict_of_the_registry_once_it_is_strict_is_the_one_that_counts(
    there: Registry, folder: Path
) -> None:
    there.has("org", KINDS["org"].schema)
    before = copy.deepcopy(there.texts)
    there.refuses = lambda subject, level: "org" in subject and level == STRICT
    write(folder, "org", with_field("org", name="motto", type="string", default=""))
    with pytest.raises(Stop, match="the registry reports it as incompatible"):
        subjects.apply(SETTINGS, folder)
    assert there.texts == before


def test_apply_goes_on_where_the_registry_went_down(there: Registry) -> None:
    there.fails_on = "schoolbus.result-value"
    with pytest.raises(RetryLater, match="HTTP 503") as caught:
        subjects.apply(SETTINGS)
    others = [name for name in there.texts if name != there.fails_on]
    assert len(others) == len(KINDS) - 1
    assert (
        f"{len(KINDS) - 1} of the subjects were registered: {', '.join(others)}. They stay"
        in str(caught.value)
    )
    assert "`bus schemas apply` again" in str(caught.value)
    with pytest.raises(RetryLater, match="HTTP 503") as caught:
        subjects.apply(SETTINGS)
    assert "were registered" not in str(caught.value), "the second call registered none"
    there.fails_on = ""
    registered = [one.kind for one in subjects.apply(SETTINGS) if one.registered]
    assert registered == ["result"]


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        (None, "cannot be read"),
        ("{", "is not an Avro schema"),
        ('{"type": "recrod", "name": "Org"}', "is not an Avro schema"),
        ('{"type": "record", "name": "Org", "fields": [{}]}', "is not an Avro schema"),
    ],
)
def test_a_folder_that_holds_no_schemas_is_refused_by_file(
    there: Registry, folder: Path, text: str | None, reason: str
) -> None:
    path = folder / "org.avsc"
    path.unlink() if text is None else path.write_text(text, "utf-8")
    with pytest.raises(Stop, match=reason) as caught:
        subjects.apply(SETTINGS, folder)
    assert "org.avsc" in str(caught.value)
    assert there.texts == {}


# Reading.


def test_what_is_registered_is_listed(there: Registry) -> None:
    there.has("org", without("org", "identifier"))
    there.has("org", KINDS["org"].schema)
    there.texts["somebody.elses-value"] = there.ids[:1]
    assert subjects.registered(SETTINGS) == [
        {"subject": "schoolbus.org-value", "versions": [1, 2], "id": 2}
    ]


def test_a_schema_is_found_by_its_id(there: Registry) -> None:
    there.has("org", KINDS["org"].schema)
    assert subjects.schema_lookup(SETTINGS)(1) == KINDS["org"].schema


@pytest.mark.parametrize("text", ['"string"', "[]", "no json", ""])
def test_an_id_that_is_no_avro_record_is_never_read(there: Registry, text: str) -> None:
    there.ids.append(text)
    with pytest.raises(Never, match="schema 1 in the registry is not an Avro record"):
        subjects.schema_lookup(SETTINGS)(1)


def test_an_id_that_the_registry_does_not_know_is_never_read(there: Registry) -> None:
    with pytest.raises(Never, match="the registry has no schema 7"):
        subjects.schema_lookup(SETTINGS)(7)


# Failures on the way, and what their messages never contain.

SECRET = "Tr0ub4dor"


@pytest.mark.parametrize(
    ("error", "kind", "said"),
    [
        (RegistryError(401, 40101, f"user bus:{SECRET} unknown"), Stop, "credentials"),
        (RegistryError(403, 40301, f"token {SECRET} may not"), Stop, "credentials"),
        (RegistryError(404, -1, f"<html>{SECRET}"), Stop, "no schema registry at this"),
        (RegistryError(422, -1, f"<html>{SECRET}"), Stop, "HTTP 422"),
        (RegistryError(408, -1, SECRET), RetryLater, "HTTP 408"),
        (RegistryError(429, -1, SECRET), RetryLater, "HTTP 429"),
        (RegistryError(500, 50001, SECRET), RetryLater, "HTTP 500"),
        (RegistryError(503, 50003, SECRET), RetryLater, "HTTP 503"),
        (httpx2.ConnectError(f"http://bus:{SECRET}@registry"), RetryLater, "does not answer"),
        (httpx2.ReadTimeout(f"http://bus:{SECRET}@registry"), RetryLater, "ReadTimeout"),
        (httpx2.InvalidURL(f"http://bus:{SECRET}@["), RetryLater, "url is correct"),
        (ValueError(SECRET), Stop, "the answer is not that of a schema registry"),
        (KeyError(SECRET), Stop, "the answer is not that of a schema registry"),
    ],
)
def test_a_failure_is_ours_and_holds_no_secret(
    error: Exception, kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught, answered():
        raise error
    assert SECRET not in "".join(traceback.format_exception(caught.value))


def test_what_the_registry_says_of_a_schema_that_it_refuses_is_passed_on() -> None:
    with pytest.raises(Stop, match="HTTP 409: Schema being registered is incompatible"), answered():
        raise RegistryError(409, 409, "Schema being registered is incompatible")


def test_a_certificate_that_is_not_trusted_is_named_as_that() -> None:
    untrusted = ssl.SSLCertVerificationError(1, "self-signed certificate")
    untrusted.verify_message = "self-signed certificate"
    with pytest.raises(Stop, match=r"not trusted \(self-signed certificate\).*ca_file"), answered():
        raise httpx2.ConnectError("TLS") from untrusted


@pytest.mark.parametrize(
    "wrong",
    [
        RegistrySettings(url=f"ftp://bus:{SECRET}@registry"),
        RegistrySettings(url="https://registry", ca_file=f"/nowhere/{SECRET}"),
        RegistrySettings(
            url=f"https://bus:{SECRET}@registry", username="bus", password=SecretStr(SECRET)
        ),
    ],
    ids=["url", "ca file", "two users"],
)
def test_a_client_that_cannot_be_made_says_where_to_look(wrong: RegistrySettings) -> None:
    with pytest.raises(Stop, match=r"check url, ca_file") as caught:
        client(Settings(registry=wrong))
    assert SECRET not in str(caught.value)
    assert caught.value.__suppress_context__


def test_a_registry_that_is_not_there_is_tried_later(monkeypatch: pytest.MonkeyPatch) -> None:
    """A real request: nothing listens on port 1 of this machine."""
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    silent = Settings(registry=RegistrySettings(url=f"http://bus:{SECRET}@127.0.0.1:1"))
    with pytest.raises(RetryLater, match="does not answer") as caught:
        subjects.registered(silent)
    assert SECRET not in str(caught.value)
