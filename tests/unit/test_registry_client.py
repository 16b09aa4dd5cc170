"""The requests to the schema registry, and how its answers are handled."""

from __future__ import annotations

import json
from collections.abc import Callable
from typing import Any

import httpx2
import pytest
from pydantic import SecretStr

from bus.registry import registry_client
from bus.registry.registry_client import RegisteredSchema, RegistryClient, RegistryError, client
from bus.settings import RegistrySettings, Settings

Answer = Callable[[httpx2.Request], httpx2.Response]


@pytest.fixture(autouse=True)
def at_once(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_client, "wait_random_exponential", lambda **_: lambda _: 0)


def opened(answer: Answer, *urls: str) -> RegistryClient:
    http = httpx2.Client(transport=httpx2.MockTransport(answer))
    return RegistryClient(urls or ["http://registry/apis/ccompat/v7"], http)


def answering(*answers: tuple[int, object]) -> tuple[RegistryClient, list[httpx2.Request]]:
    """Return a client whose registry gives these answers in turn, and the requests that it got."""
    asked: list[httpx2.Request] = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        status, body = answers[min(len(asked), len(answers) - 1)]
        asked.append(request)
        text = body if isinstance(body, str) else json.dumps(body)
        return httpx2.Response(status, text=text)

    return opened(answer), asked


FOUND = {"subject": "a/b", "id": 7, "version": 2, "schema": "{}"}


@pytest.mark.parametrize(
    ("ask", "answer", "result", "sent"),
    [
        (lambda r: r.subjects(), ["a", "b"], ["a", "b"], ("GET", "/subjects", None)),
        (lambda r: r.versions("a/b"), [1, 2], [1, 2], ("GET", "/subjects/a%2Fb/versions", None)),
        (
            lambda r: r.version("a/b", 2),
            FOUND,
            RegisteredSchema(7, 2, "{}"),
            ("GET", "/subjects/a%2Fb/versions/2", None),
        ),
        (
            lambda r: r.version("a/b"),
            FOUND,
            RegisteredSchema(7, 2, "{}"),
            ("GET", "/subjects/a%2Fb/versions/latest", None),
        ),
        (lambda r: r.schema(7), {"schema": "{}"}, "{}", ("GET", "/schemas/ids/7", None)),
        (
            lambda r: r.lookup("a/b", "{}"),
            FOUND,
            RegisteredSchema(7, 2, "{}"),
            ("POST", "/subjects/a%2Fb", {"schema": "{}", "schemaType": "AVRO"}),
        ),
        (
            lambda r: r.register_schema("a/b", "{}"),
            {"id": 7},
            7,
            ("POST", "/subjects/a%2Fb/versions", {"schema": "{}", "schemaType": "AVRO"}),
        ),
        (
            lambda r: r.is_compatible("a/b", "{}"),
            {"is_compatible": False},
            False,
            (
                "POST",
                "/compatibility/subjects/a%2Fb/versions",
                {"schema": "{}", "schemaType": "AVRO"},
            ),
        ),
        (
            lambda r: r.set_compatibility("a/b", "FULL_TRANSITIVE"),
            {"compatibility": "FULL_TRANSITIVE"},
            None,
            ("PUT", "/config/a%2Fb", {"compatibility": "FULL_TRANSITIVE"}),
        ),
        (
            lambda r: r.subjects(deleted=True),
            ["a"],
            ["a"],
            ("GET", "/subjects?deleted=true", None),
        ),
        (
            lambda r: r.delete_subject("a/b"),
            [1, 2],
            None,
            ("DELETE", "/subjects/a%2Fb", None),
        ),
        (
            lambda r: r.delete_subject("a/b", permanent=True),
            [1, 2],
            None,
            ("DELETE", "/subjects/a%2Fb?permanent=true", None),
        ),
    ],
)
def test_each_request_is_that_of_the_api(
    ask: Callable[[RegistryClient], object],
    answer: object,
    result: object,
    sent: tuple[str, str, object],
) -> None:
    registry, asked = answering((200, answer))
    assert ask(registry) == result
    method, path, body = sent
    (request,) = asked
    assert (request.method, str(request.url)) == (method, f"http://registry/apis/ccompat/v7{path}")
    assert (json.loads(request.content) if request.content else None) == body


@pytest.mark.parametrize("code", [40401, 40404])
def test_a_subject_that_is_deleted_already_is_passed(code: int) -> None:
    registry, asked = answering((404, {"error_code": code, "message": "gone"}))
    registry.delete_subject("a")
    assert len(asked) == 1


def test_a_refusal_to_delete_is_raised() -> None:
    registry, _ = answering((404, {"error_code": 40405, "message": "not soft-deleted"}))
    with pytest.raises(RegistryError):
        registry.delete_subject("a", permanent=True)


@pytest.mark.parametrize("status", [408, 429, 500, 503])
def test_a_temporary_error_is_tried_again(status: int) -> None:
    registry, asked = answering((status, "busy"), (200, ["a"]))
    assert registry.subjects() == ["a"]
    assert len(asked) == 2


def test_after_three_attempts_the_error_is_raised() -> None:
    registry, asked = answering((503, {"error_code": 50003, "message": "no leader"}))
    with pytest.raises(RegistryError) as caught:
        registry.subjects()
    assert (caught.value.status, caught.value.code, len(asked)) == (503, 50003, 3)
    assert caught.value.message == "no leader"


@pytest.mark.parametrize("status", [401, 404, 409, 422])
def test_any_other_error_is_raised_at_once(status: int) -> None:
    registry, asked = answering((status, "<html>"))
    with pytest.raises(RegistryError) as caught:
        registry.subjects()
    assert (caught.value.status, caught.value.code, caught.value.message) == (status, 0, "")
    assert len(asked) == 1


def test_of_several_addresses_the_next_is_tried() -> None:
    hosts = []

    def answer(request: httpx2.Request) -> httpx2.Response:
        hosts.append(request.url.host)
        if request.url.host == "one":
            raise httpx2.ConnectError("refused")
        return httpx2.Response(200, json=["a"])

    assert opened(answer, "http://one", "http://two").subjects() == ["a"]
    assert hosts == ["one", "two"]


def test_one_address_without_tls_does_not_switch_verification_off(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    made: list[dict[str, Any]] = []
    monkeypatch.setattr(registry_client, "_http", lambda **options: made.append(options))
    named = RegistrySettings(url="http://one/, HTTPS://two/apis/ccompat/v7")
    registry = client(Settings(registry=named))
    assert registry._urls == ["http://one", "HTTPS://two/apis/ccompat/v7"]
    assert made[0]["verify"].check_hostname


def test_credentials_are_sent() -> None:
    for settings, sent in (
        (RegistrySettings(bearer_token=SecretStr("t0ken")), "Bearer t0ken"),
        (RegistrySettings(username="bus", password=SecretStr("pw")), "Basic YnVzOnB3"),
    ):
        named = settings.model_copy(update={"url": "http://registry"})
        with client(Settings(registry=named)) as registry:
            http = registry._http
            request = http.build_request("GET", "http://registry/subjects")
            flow = (http.auth or httpx2.Auth()).auth_flow(request)
            assert next(flow).headers["Authorization"] == sent
