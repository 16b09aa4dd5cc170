"""The HTTP source as a client sees it, with a list in place of Kafka."""

from __future__ import annotations

import asyncio
import json
from collections.abc import Coroutine, Sequence
from hashlib import sha256
from io import BytesIO
from typing import Any

import fastavro
import httpx2
import jsonschema
import pytest

from bus.errors import RetryLater
from bus.kafka.topics import partition_for
from bus.registry.codec import Encoder
from bus.settings import Settings
from bus.standard import KINDS
from producers.http.app import Service, create
from producers.http.clients import Clients
from producers.http.idempotency import Keys
from producers.http.settings import HttpSettings
from producers.http.work import Event, Full, Work

RECORD = {
    "studentSourcedId": "s-1",
    "schoolSourcedId": "lincoln",
    "classSourcedId": "algebra-2",
    "eventDate": "2026-11-24",
    "attendanceEventCategory": "tardy",
}
KEY = "bus_front-office"
SETTINGS: dict[str, Any] = {
    "clients": {"office": {"key_sha256": sha256(KEY.encode()).hexdigest()}},
}


class Kafka:
    """Replaces group commit. `answer`: None commits at once, "never" leaves it open."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.works: list[Work] = []
        self.taking = True
        self.queued = 0
        self.answer: Any = None

    def reachable(self) -> bool:
        return self.taking

    def submit(self, events: Sequence[Event]) -> Work:
        if self.answer == "full":
            raise Full
        work = Work(events, asyncio.get_running_loop().create_future())
        self.works.append(work)
        if self.answer is None:
            self.events += events
        if self.answer != "never":
            work.outcome.set_result(self.answer)
        return work

    @property
    def records(self) -> list[Event]:
        """Return the events that are records, without the idempotency keys."""
        return [event for event in self.events if not event.topic.endswith("idempotency")]


class Ingest:
    """The service with its fake Kafka."""

    def __init__(self, **settings: Any) -> None:
        self.kafka = Kafka()
        http = HttpSettings.model_validate(SETTINGS | settings)
        self.keys = Keys(3600, 1000)
        self.service = Service(
            Settings(),
            http,
            Clients(http),
            self.kafka,
            self.keys,
            {kind: Encoder(kind, number) for number, kind in enumerate(KINDS, 1)},
            partitions=4,
        )
        self.app = create(self.service)

    async def send(
        self,
        body: Any = RECORD,
        *,
        kind: str = "attendance",
        method: str = "POST",
        path: str | None = None,
        **headers: str,
    ) -> httpx2.Response:
        """Send one request of the office. Header names are given with _ for -."""
        content = body if isinstance(body, bytes) else json.dumps(body).encode()
        given = {"content-type": "application/json", "authorization": f"Bearer {KEY}"} | {
            name.replace("_", "-"): value for name, value in headers.items()
        }
        transport = httpx2.ASGITransport(self.app)
        async with httpx2.AsyncClient(transport=transport, base_url="http://bus") as client:
            return await client.request(
                method, path or f"/v1/{kind}", content=content, headers=given
            )

    def post(self, body: Any = RECORD, **options: Any) -> httpx2.Response:
        return run(self.send(body, **options))


def run(work: Coroutine[Any, Any, httpx2.Response]) -> httpx2.Response:
    return asyncio.run(work)


def problem(answer: httpx2.Response, status: int) -> dict[str, Any]:
    """Return the problem document of an answer, after a check of its status."""
    assert answer.status_code == status, answer.text
    assert answer.headers["content-type"] == "application/problem+json"
    found: dict[str, Any] = answer.json()
    assert found["status"] == status and found["type"] and found["title"] and found["detail"]
    return found


@pytest.fixture
def ingest() -> Ingest:
    return Ingest()


# Accepted requests


def test_a_record_is_an_event_once_kafka_has_it(ingest: Ingest) -> None:
    answer = ingest.post([RECORD | {"sourcedId": "a-1"}])

    assert answer.status_code == 202
    [event] = ingest.kafka.events
    headers = dict(event.headers)
    assert answer.json() == {"events": [{"id": headers["ce_id"].decode(), "sourcedId": "a-1"}]}
    assert (event.topic, event.key) == ("schoolbus.attendance", b"a-1")
    assert event.partition == partition_for("s-1", 4)
    assert headers["ce_type"] == b"org.schoolbus.attendance.recorded"
    assert headers["ce_source"] == b"/http/office"
    assert event.value[:5] == b"\0" + (list(KINDS).index("attendance") + 1).to_bytes(4, "big")
    schema = fastavro.parse_schema(KINDS["attendance"].schema)
    record = fastavro.schemaless_reader(BytesIO(event.value[5:]), schema, None)
    assert isinstance(record, dict)
    assert record["attendanceEventCategory"] == "tardy" and record["status"] == "active"


def test_attendance_of_the_same_student_class_and_day_is_a_correction(ingest: Ingest) -> None:
    late = ingest.post().json()["events"][0]
    corrected = ingest.post(RECORD | {"attendanceEventCategory": "inAttendance"}).json()["events"][
        0
    ]
    other_day = ingest.post(RECORD | {"eventDate": "2026-11-25"}).json()["events"][0]

    assert corrected["sourcedId"] == late["sourcedId"] != other_day["sourcedId"]
    assert corrected["id"] != late["id"]


def test_the_trace_of_the_client_goes_along(ingest: Ingest) -> None:
    trace = "0af7651916cd43dd8448eb211c80319c"
    ingest.post(traceparent=f"00-{trace}-b7ad6b7169203331-01")
    ingest.post(traceparent="rubbish")

    first, second = (dict(event.headers)["traceparent"].decode() for event in ingest.kafka.events)
    assert trace in first
    assert len(second) == 55 and trace not in second


def test_an_api_key_may_come_in_either_header(ingest: Ingest) -> None:
    assert ingest.post(authorization="", x_api_key=KEY).status_code == 202


def test_other_kinds_have_routes_of_their_own() -> None:
    office = SETTINGS["clients"]["office"] | {"scopes": "attendance, org"}
    ingest = Ingest(clients={"office": office})
    org = {"sourcedId": "o-1", "status": "active", "name": "Lincoln", "type": "school"}
    assert ingest.post(org, kind="org").status_code == 202
    assert ingest.kafka.events[0].topic == "schoolbus.org"


OPT_OUT = {"sourcedId": "o-1", "status": "active", "studentSourcedId": "s-1", "scope": "vendor"}


def test_an_opt_out_lies_with_its_student_and_a_wrong_combination_is_refused() -> None:
    office = SETTINGS["clients"]["office"] | {"scopes": "optOut"}
    ingest = Ingest(clients={"office": office})
    found = problem(ingest.post([OPT_OUT, OPT_OUT | {"vendor": "Acme"}], kind="optOut"), 422)
    assert [error["pointer"] for error in found["errors"]] == ["#/0/vendor"]
    assert ingest.kafka.events == []

    assert ingest.post(OPT_OUT | {"vendor": "Acme"}, kind="optOut").status_code == 202
    (event,) = ingest.kafka.events
    assert (event.topic, event.key) == ("schoolbus.optOut", b"o-1")
    assert event.partition == partition_for("s-1", 4)


# Refused requests


def test_one_bad_record_and_nothing_of_the_request_is_taken(ingest: Ingest) -> None:
    bad = RECORD | {"eventDate": "24 November", "attendanceEventCategory": "asleep-in-class"}
    found = problem(ingest.post([RECORD, bad, 7]), 422)

    assert {error["pointer"] for error in found["errors"]} == {
        "#/1/eventDate",
        "#/1/attendanceEventCategory",
        "#/2",
    }
    assert ingest.kafka.events == []


def test_a_problem_names_the_field_and_never_the_value(ingest: Ingest) -> None:
    answer = ingest.post(RECORD | {"eventDate": "Jane Doe", "attendanceEventReason": ["Jane Doe"]})
    assert "#/eventDate" in answer.text and "Jane" not in answer.text


@pytest.mark.parametrize(
    ("change", "status", "name"),
    [
        ({"authorization": ""}, 401, "unauthorized"),
        ({"authorization": "Bearer bus_guessed"}, 401, "unauthorized"),
        ({"authorization": "Basic b2ZmaWNlOg=="}, 401, "unauthorized"),
        ({"kind": "student"}, 403, "kind-not-allowed"),
        ({"kind": "homework"}, 404, "not-found"),
        ({"method": "DELETE"}, 405, "method-not-allowed"),
        ({"content_type": "text/csv"}, 415, "not-application-json"),
        ({"content_encoding": "gzip"}, 415, "not-application-json"),
        ({"idempotency_key": '"never closed'}, 400, "idempotency-key-malformed"),
        ({"body": b"{"}, 400, "not-json"),
        ({"body": b'{"eventDuration": NaN}'}, 400, "not-json"),
        ({"body": b"\xff"}, 400, "not-json"),
        ({"body": b"[" * 5000}, 400, "not-json"),
        ({"body": []}, 422, "invalid-records"),
        ({"body": "a word"}, 422, "invalid-records"),
        ({"body": [RECORD] * 1001}, 413, "too-large"),
        ({"body": b" " * 1_000_001}, 413, "too-large"),
    ],
)
def test_each_refusal_has_its_status_and_its_problem(
    ingest: Ingest, change: dict[str, Any], status: int, name: str
) -> None:
    found = problem(ingest.post(**change), status)
    assert found["type"] == f"urn:schoolbus:problem:{name}"
    assert ingest.kafka.events == []


def test_a_body_without_a_declared_length_is_stopped_as_it_grows(ingest: Ingest) -> None:
    async def endless() -> Any:
        while True:
            yield b" " * 100_000

    async def send() -> httpx2.Response:
        transport = httpx2.ASGITransport(ingest.app)
        headers = {"content-type": "application/json", "x-api-key": KEY}
        async with httpx2.AsyncClient(transport=transport, base_url="http://bus") as client:
            return await client.post("/v1/attendance", content=endless(), headers=headers)

    problem(run(send()), 413)


def test_a_client_that_sends_too_often_is_asked_to_wait() -> None:
    ingest = Ingest(rate=0.1, burst=2)
    assert [ingest.post().status_code for _ in range(3)] == [202, 202, 429]
    answer = ingest.post()
    problem(answer, 429)
    assert int(answer.headers["retry-after"]) >= 9


def test_a_full_queue_asks_to_wait(ingest: Ingest) -> None:
    ingest.kafka.answer = "full"
    assert ingest.post(idempotency_key="k").headers["retry-after"]
    ingest.kafka.answer = None
    assert ingest.post(idempotency_key="k").status_code == 202  # the key was not used up


def test_without_kafka_nothing_is_promised(ingest: Ingest) -> None:
    ingest.kafka.answer = RetryLater("no broker answers")
    answer = ingest.post(idempotency_key="k")
    problem(answer, 503)
    assert answer.headers["retry-after"]

    ingest.kafka.answer = None
    ingest.kafka.taking = False
    problem(ingest.post(), 503)
    problem(ingest.post(method="GET", path="/readyz"), 503)
    assert ingest.post(method="GET", path="/livez").status_code == 200
    assert ingest.post(method="GET", path="/healthz").status_code == 200, "as in 0.1.0"
    ingest.kafka.taking = True
    assert ingest.post(idempotency_key="k").status_code == 202


def test_a_commit_that_takes_too_long_is_not_a_promise() -> None:
    ingest = Ingest(commit_seconds=0.01)
    ingest.kafka.answer = "never"
    problem(ingest.post(), 503)
    assert ingest.kafka.works[0].abandoned


def test_an_internal_error_reveals_no_value_of_the_request(
    ingest: Ingest, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def broken(events: Sequence[Event]) -> Work:
        raise KeyError("Jane Doe")

    monkeypatch.setattr(ingest.kafka, "submit", broken)
    answer = ingest.post(idempotency_key="k")
    problem(answer, 500)
    assert "Jane" not in answer.text and "Jane" not in caplog.text
    assert len(ingest.keys) == 0


# Repeated requests


def test_the_same_request_with_its_key_is_answered_again_and_not_done_again(
    ingest: Ingest,
) -> None:
    first = ingest.post([RECORD, RECORD | {"sourcedId": "x"}], idempotency_key='"8e03978e"')
    again = ingest.post([RECORD, RECORD | {"sourcedId": "x"}], idempotency_key="8e03978e")

    assert first.status_code == again.status_code == 202
    assert first.json() == again.json()
    assert len(ingest.kafka.records) == 2


def test_a_key_goes_to_kafka_with_its_events_and_without_personal_data(ingest: Ingest) -> None:
    ingest.post(idempotency_key="k")
    record, key = ingest.kafka.works[0].events
    assert key.topic == "schoolbus.http-idempotency"
    assert set(json.loads(key.value)) == {"body", "events", "time"}
    assert b"s-1" not in key.value and record.topic == "schoolbus.attendance"


def test_the_same_key_with_another_body_is_refused(ingest: Ingest) -> None:
    ingest.post(idempotency_key="k")
    found = problem(ingest.post(RECORD | {"eventDate": "2026-11-25"}, idempotency_key="k"), 422)
    assert found["type"].endswith("idempotency-key-reused")
    assert len(ingest.kafka.records) == 1


def test_the_same_request_while_the_first_is_in_progress_is_a_conflict(ingest: Ingest) -> None:
    async def both() -> httpx2.Response:
        ingest.kafka.answer = "never"
        first = asyncio.create_task(ingest.send(idempotency_key="k"))
        while not ingest.kafka.works:
            await asyncio.sleep(0)
        second = await ingest.send(idempotency_key="k")
        ingest.kafka.works[0].outcome.set_result(None)
        assert (await first).status_code == 202
        assert (await ingest.send(idempotency_key="k")).json() == (await first).json()
        return second

    problem(run(both()), 409)


def test_what_was_refused_does_not_use_up_its_key(ingest: Ingest) -> None:
    problem(ingest.post({}, idempotency_key="k"), 422)
    assert ingest.post(idempotency_key="k").status_code == 202


# What the service reports about itself


def test_openapi_describes_every_kind_and_its_schema_takes_what_the_service_takes(
    ingest: Ingest,
) -> None:
    document = ingest.post(method="GET", path="/openapi.json").json()
    assert document == ingest.post(method="GET", path="/v1/openapi.json").json()
    assert set(document["paths"]) == {f"/v1/{kind}" for kind in KINDS}
    assert document["components"]["securitySchemes"]
    responses = document["paths"]["/v1/attendance"]["post"]["responses"]
    assert {"202", "401", "403", "409", "413", "415", "422", "429", "503"} <= set(responses)

    schema = document["components"]["schemas"]["attendance"]
    jsonschema.Draft202012Validator.check_schema(schema)
    jsonschema.validate(RECORD, schema)
    with pytest.raises(jsonschema.ValidationError):
        jsonschema.validate(RECORD | {"attendanceEventCategory": "asleep"}, schema)


def test_metrics_count_by_kind_and_status_alone(ingest: Ingest) -> None:
    ingest.post()
    ingest.post({})
    text = ingest.post(method="GET", path="/metrics").text
    assert 'schoolbus_http_requests_total{kind="attendance",status="202"} 1.0' in text
    assert 'schoolbus_http_requests_total{kind="attendance",status="422"} 1.0' in text
    assert 'schoolbus_http_records_total{kind="attendance"} 1.0' in text
    assert 'bus_http_records_total{kind="attendance"} 1.0' in text, "as in 0.1.0"
    assert "s-1" not in text and "office" not in text
