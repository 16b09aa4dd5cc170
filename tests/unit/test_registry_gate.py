"""The gate before the registry, as two vendors, one whose token was removed, and nobody see it."""

from __future__ import annotations

import asyncio
import json
import stat
from base64 import b64encode
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

import httpx2
import pytest

from bus.settings import Settings
from bus.standard import KINDS
from bus.vendors import registry_gate
from bus.vendors.registry_gate import create
from bus.vendors.registry_tokens import folder, new_token, owner_of, remove_tokens
from bus.vendors.vendor_schema import vendor_schema, vendor_subject
from tests.fakes.registry import FakeRegistry
from tests.unit.test_vendor_schema import scope_of

MATH, LIBRARY, OLD = "math-app", "math", "research"
"""One name is the beginning of another."""
METHODS = ("POST", "PUT", "PATCH", "DELETE", "OPTIONS", "TRACE", "PROPFIND")


class District:
    """A registry with the standard and three vendors, and the gate before it."""

    def __init__(self, home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.settings = Settings(home=home)
        self.registry = FakeRegistry()
        monkeypatch.setattr(registry_gate, "client", self.registry.client)
        monkeypatch.setattr(registry_gate, "REST", 0.0)
        for kind, about in KINDS.items():
            self.registry.add(f"schoolbus.{kind}-value", about.schema)
        self.ids: dict[str, set[int]] = {}
        self.tokens: dict[str, str] = {}
        for name, field in ((MATH, "givenName"), (LIBRARY, "grades"), (OLD, "email")):
            self.register(name, f"student.{field}", "enrollment.role")
            self.register(name, f"student.{field}")
            self.tokens[name] = new_token(self.settings, name, f"vendor-{name}-a")
        remove_tokens(self.settings, OLD)
        self.app = create(self.settings)
        self.runner = asyncio.Runner()
        transport = httpx2.ASGITransport(self.app)
        self.client = httpx2.AsyncClient(transport=transport, base_url="http://gate")

    def register(self, name: str, *fields: str) -> None:
        scope = scope_of(*fields, name=name)
        for kind in scope.kinds:
            schema = vendor_schema(scope, kind, name)
            id_ = self.registry.add(vendor_subject(self.settings, name, kind), schema)
            self.ids.setdefault(name, set()).add(id_)

    def basic(self, name: str, user: str | None = None) -> str:
        text = f"{user or f'vendor-{name}-a'}:{self.tokens[name]}"
        return f"Basic {b64encode(text.encode()).decode()}"

    def ask(
        self, path: str, authorization: str | None, method: str = "GET"
    ) -> tuple[int, Any, httpx2.Headers]:
        headers = {} if authorization is None else {"Authorization": authorization}
        found = self.runner.run(self.client.request(method, path, headers=headers))
        body = json.loads(found.content) if found.content else None
        return found.status_code, body, found.headers

    def paths(self) -> list[str]:
        """Return every path of the API that could name something, and some that do not exist."""
        subjects = [*self.registry.subjects, "none", "schoolbus.vendor.math", "a/b", ""]
        ids = [*self.registry.ids.values(), 0, 9999, "x", "-1", "²", "9" * 50]
        return [
            *(f"/schemas/ids/{id_}" for id_ in ids),
            *(
                f"/schemas/ids/{id_}/{more}"
                for id_ in ids[-8:]
                for more in ("subjects", "versions")
            ),
            *(f"/subjects/{name}" for name in subjects),
            *(f"/subjects/{name}/versions" for name in subjects),
            *(
                f"/subjects/{name}/versions/{version}"
                for name in subjects
                for version in (1, 2, 3, "latest", "-1", "x", "1/schema", "1/referencedby")
            ),
            *("/", "/subjects", "/schemas", "/schemas/types", "/config", "/mode", "/contexts"),
            *("/metrics", "/compatibility", "/exporters", "/apis/registry/v3", "/subjects/"),
        ]


@pytest.fixture
def district(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[District]:
    found = District(tmp_path, monkeypatch)
    with found.runner:
        yield found


def test_a_vendor_reads_its_own_schemas(district: District) -> None:
    me = district.basic(MATH)
    student, enrollment = (
        vendor_subject(district.settings, MATH, k) for k in ("student", "enrollment")
    )
    assert district.ask("/", me)[:2] == (200, {})
    assert district.ask("/schemas/types", me)[:2] == (200, ["AVRO"])
    status, names, headers = district.ask("/subjects", me)
    assert (status, set(names)) == (200, {student, enrollment})
    assert headers["content-type"] == "application/vnd.schemaregistry.v1+json"
    assert district.ask(f"/subjects/{student}/versions", me)[:2] == (200, [1])
    status, first, _ = district.ask(f"/subjects/{student}/versions/1", me)
    assert (first["subject"], first["version"]) == (student, 1)
    assert district.ask(f"/subjects/{student}/versions/latest", me)[1] == first
    assert district.ask(f"/schemas/ids/{first['id']}", me)[:2] == (200, {"schema": first["schema"]})
    path = f"/schemas/ids/{first['id']}?subject={student}&fetchMaxId=true"
    assert district.ask(path, me)[:2] == (200, {"schema": first["schema"]})


def test_a_bearer_token_counts_as_well(district: District) -> None:
    assert district.ask("/subjects", f"Bearer {district.tokens[MATH]}")[0] == 200


@pytest.mark.parametrize("name", [MATH, LIBRARY])
def test_no_answer_names_anything_of_somebody_else(district: District, name: str) -> None:
    own = {vendor_subject(district.settings, name, k) for k in KINDS}
    others = {one for one in district.registry.subjects if one not in own}
    spaces = {f"org.schoolbus.vendor.{one}" for one in ("math_app", "math", "research")}
    spaces.discard(f"org.schoolbus.vendor.{name.replace('-', '_')}")
    granted = 0
    for path in district.paths():
        status, body, headers = district.ask(path, district.basic(name))
        assert status in (200, 404), path
        granted += status == 200
        text = json.dumps([body, dict(headers)])
        if not path.startswith(tuple(f"/subjects/{one}" for one in own)):
            assert not any(f'"{one}"' in text for one in others), path
        assert not any(f'{one}\\"' in text for one in spaces), path
        assert '"org.schoolbus\\"' not in text, path
    # two subjects: their versions, 1, latest, -1; two ids; /, /subjects, /schemas/types
    assert granted == 2 * 4 + 2 + 3


def test_what_is_not_theirs_is_answered_as_what_does_not_exist(district: District) -> None:
    me = district.basic(MATH)
    student = vendor_subject(district.settings, MATH, "student")

    def answer(path: str) -> tuple[Any, ...]:
        district.registry.asked.clear()
        status, body, headers = district.ask(path, me)
        return status, body, sorted(headers.items()), tuple(district.registry.asked)

    district.ask("/subjects", me)  # what is known of the caller's own does not count
    theirs = vendor_subject(district.settings, LIBRARY, "student")
    for there, not_there in [
        (f"/schemas/ids/{min(district.ids[LIBRARY])}", "/schemas/ids/9999"),
        ("/schemas/ids/1", "/schemas/ids/9999"),
        (f"/subjects/{theirs}/versions", "/subjects/none/versions"),
        (f"/subjects/{theirs}/versions/1", "/subjects/none/versions/1"),
        (f"/subjects/{theirs}/versions/77", "/subjects/none/versions/latest"),
        ("/subjects/schoolbus.student-value/versions/latest", "/subjects/none/versions/latest"),
        (
            f"/subjects/{vendor_subject(district.settings, MATH, 'org')}/versions",
            "/subjects/none/versions",
        ),
    ]:
        assert answer(there) == answer(not_there)
    assert district.ask("/schemas/ids/9999", me)[:2] == (
        404,
        {"error_code": 40403, "message": "Schema not found"},
    )
    assert district.ask("/subjects/none/versions", me)[1]["error_code"] == 40401
    assert district.ask(f"/subjects/{student}/versions/7", me)[1]["error_code"] == 40402


def test_without_a_valid_token_every_path_and_method_gets_the_same(district: District) -> None:
    removed, wrong = district.basic(OLD), "Basic " + b64encode(b"vendor-math-app-a:busv_x").decode()
    credentials: Sequence[str | None] = [
        *(None, "", removed, f"Bearer {district.tokens[OLD]}", wrong, "Basic !", "Basic", "Bearer"),
        *("Basic /w==", "Digest x", district.basic(MATH, user="vendor-math-a"), "Bearer ../x"),
    ]
    found = set()
    for authorization in credentials:
        for path in (
            "/",
            "/subjects",
            "/none",
            "/schemas/ids/1",
            f"/schemas/ids/{min(district.ids[OLD])}",
        ):
            for method in ("GET", *METHODS):
                status, body, headers = district.ask(path, authorization, method)
                found.add((status, json.dumps(body), tuple(sorted(headers.items()))))
    ((status, _, said),) = found
    assert status == 401
    assert dict(said)["www-authenticate"].startswith("Basic ")
    assert district.registry.asked == []


def test_a_token_that_is_removed_counts_no_more_at_once(district: District) -> None:
    other = new_token(district.settings, MATH, "vendor-math-app-b")
    assert district.ask("/subjects", district.basic(MATH))[0] == 200
    assert remove_tokens(district.settings, MATH, "vendor-math-app-a") == 1
    assert district.ask("/subjects", district.basic(MATH))[0] == 401
    assert district.ask("/subjects", f"Bearer {other}")[0] == 200
    assert remove_tokens(district.settings, MATH) == 1
    assert district.ask("/subjects", f"Bearer {other}")[0] == 401


def test_nothing_can_be_written(district: District) -> None:
    for path in ("/", "/subjects/x/versions", "/config", "/none", "/subjects/x"):
        for method in METHODS:
            status, body, headers = district.ask(path, district.basic(MATH), method)
            assert (status, body["error_code"], headers["allow"]) == (405, 405, "GET, HEAD")
    assert district.registry.asked == []


def test_a_schema_that_was_registered_since_is_found(district: District) -> None:
    me = district.basic(MATH)
    district.ask("/subjects", me)
    district.register(MATH, "student.givenName", "student.grades")
    new = max(district.ids[MATH])
    assert district.ask(f"/schemas/ids/{new}", me)[0] == 200
    assert district.ask(
        f"/subjects/{vendor_subject(district.settings, MATH, 'student')}/versions", me
    )[1] == [1, 2]


def test_many_unknown_ids_are_one_reading_of_the_registry(
    district: District, monkeypatch: pytest.MonkeyPatch
) -> None:
    async def many() -> list[int]:
        headers = {"Authorization": district.basic(MATH)}
        get = district.client.get
        asked = (get(f"/schemas/ids/{n}", headers=headers) for n in range(1000, 1030))
        return [one.status_code for one in await asyncio.gather(*asked)]

    monkeypatch.setattr(registry_gate, "REST", 0.2)
    assert district.runner.run(many()) == [404] * 30
    assert len(district.registry.asked) <= 2 * (len(KINDS) + 4)


def test_a_registry_that_is_away_is_said_without_its_address(
    district: District, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.registry.registry_client.ATTEMPTS", 1)
    district.registry.status = 500
    status, body, _ = district.ask("/subjects", district.basic(MATH))
    assert (status, body["error_code"]) == (503, 50301)
    assert "registry" in body["message"] and "http" not in json.dumps(body)


# The tokens


def test_only_the_hash_of_a_token_is_kept_and_only_for_its_owner(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    token = new_token(settings, MATH, "vendor-math-app-a")
    (path,) = folder(settings).iterdir()
    assert token not in path.name + path.read_text()
    assert stat.S_IMODE(path.stat().st_mode) == 0o600
    assert stat.S_IMODE(path.parent.stat().st_mode) == 0o700
    owner = owner_of(settings, token)
    assert owner is not None
    assert (owner.ids_name, owner.user) == (MATH, "vendor-math-app-a")


def test_what_is_no_token_is_unknown(tmp_path: Path) -> None:
    settings = Settings(home=tmp_path)
    assert owner_of(settings, "x") is None
    new_token(settings, MATH, "vendor-math-app-a")
    (path,) = folder(settings).iterdir()
    path.write_text("{}")
    assert owner_of(settings, "x") is None
    assert remove_tokens(settings, "nobody") == 0
