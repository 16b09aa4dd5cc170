"""The service accepts exactly the requests that /openapi.json allows.

schemathesis makes requests from the document and checks the answers against it. The service answers
202 to each request that the document allows and refuses all others. The document describes each
answer.
"""

from __future__ import annotations

from typing import Any

import jsonschema
import pytest
import schemathesis
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from schemathesis.checks import CHECKS, load_all_checks
from schemathesis.generation import GenerationMode

from bus.contract import records
from bus.standard import KINDS
from bus.standard.json import to_json
from producers.http.idempotency import Keys, parse
from producers.http.problems import Problem
from tests.unit.test_http_app import KEY, RECORD, SETTINGS, Ingest

CLIENT = SETTINGS["clients"]["office"] | {"scopes": list(KINDS)}
INGEST = Ingest(clients={"office": CLIENT}, rate=1e9, burst=1_000_000_000)
JUDGED = {
    "checks": {"negative_data_rejection": {"expected-statuses": ["400", "413", "415", "422"]}}
}
"""Status 413 for too many records, which schemathesis does not expect by default."""
SERVICE = schemathesis.openapi.from_asgi(
    "/openapi.json", INGEST.app, config=schemathesis.Config.from_dict(JUDGED)
)
DOCUMENT = INGEST.post(method="GET", path="/openapi.json").json()
load_all_checks()
(ignored_auth,) = CHECKS.get_by_names(["ignored_auth"])
"""Excluded: each request has a key besides the credentials that schemathesis makes up."""
HOW = {
    "deadline": None,
    "suppress_health_check": list(HealthCheck),
    # Each kind is tried in two modes, and each example takes ten times as long as elsewhere.
    "max_examples": max(4, settings.default.max_examples // 6),  # type: ignore[union-attr]
}


@pytest.fixture(autouse=True)
def _forgetful() -> None:
    """Empty the fake Kafka before each test."""
    INGEST.kafka.events.clear()
    INGEST.kafka.works.clear()


@pytest.mark.parametrize("kind", KINDS)
@pytest.mark.parametrize("mode", list(GenerationMode))
@settings(**HOW)  # type: ignore[arg-type]
@given(data=st.data())
def test_schemathesis_finds_nothing(kind: str, mode: GenerationMode, data: st.DataObject) -> None:
    INGEST.service.keys = Keys(3600, 1000)  # otherwise an earlier key with another body is refused
    operation = SERVICE[f"/v1/{kind}"]["POST"]
    case = data.draw(operation.as_strategy(generation_mode=mode))
    answer = case.call_and_validate(headers={"X-API-Key": KEY}, excluded_checks=[ignored_auth])
    assert answer.status_code not in (401, 403), "nothing was looked at"


@pytest.mark.parametrize("kind", KINDS)
@settings(**HOW)  # type: ignore[arg-type]
@given(data=st.data())
def test_what_the_bus_itself_writes_is_described(kind: str, data: st.DataObject) -> None:
    """The document allows all that the standard allows."""
    record = to_json(kind, data.draw(records(kind)))
    jsonschema.validate(record, DOCUMENT["components"]["schemas"][kind])
    assert INGEST.post(record, kind=kind).status_code == 202


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *(
            ("sourcedId", text)
            for text in ("", " ", "\u3000", "x" * 255, "x" * 256, "a\tb", "\ufeff")
        ),
        *(("sourcedId", text) for text in (None, 7, "a b", " a ", "Zoë", "a\u2028b")),
        *(("classSourcedId", text) for text in (None, "", "c", "x" * 256)),
        *(("classPeriod", text) for text in (None, "", "\n", "\x07", "\x85", "1")),
        *(("eventDate", text) for text in ("2026-11-24", "2026-11-31", "24.11.2026", "", 20261124)),
        *(("recordedAt", f"2026-11-24{rest}") for rest in ("", "T08:15:00", "T08:15:00Z")),
        *(("recordedAt", f"2026-11-24{rest}") for rest in ("t08:15:00.5z", " 08:15:00Z")),
        ("recordedAt", "2026-11-24T08:15:00.1234567891Z"),
        *(("eventDuration", number) for number in (0, 0.5, -1, "1", True, None)),
        *(("status", word) for word in ("active", "tobedeleted", "gone", None)),
        ("another", 1),
    ],
)
def test_it_allows_a_value_where_the_service_takes_it(field: str, value: Any) -> None:
    schema = DOCUMENT["components"]["schemas"]["attendance"]
    checker = jsonschema.Draft202012Validator(
        schema, format_checker=jsonschema.Draft202012Validator.FORMAT_CHECKER
    )
    record = RECORD | {field: value}
    assert checker.is_valid(record) == (INGEST.post(record).status_code == 202)


@pytest.mark.parametrize(
    "key",
    ["k", '"k"', '"k', 'k"', '""', "", '"a b"', "a b", "ä", r'"\""', r'"\n"', "x" * 255, "x" * 256],
)
def test_it_allows_an_idempotency_key_where_the_service_takes_it(key: str) -> None:
    (schema,) = [
        parameter["schema"]
        for parameter in DOCUMENT["paths"]["/v1/attendance"]["post"]["parameters"]
        if parameter["name"] == "Idempotency-Key"
    ]
    INGEST.service.keys = Keys(3600, 1000)
    try:
        parse([key])
        taken = True
    except Problem:
        taken = False
    assert jsonschema.Draft202012Validator(schema).is_valid(key) == taken
