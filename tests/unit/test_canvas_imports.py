"""The SIS import API: a batch is sent, watched, and its errors are read."""

from __future__ import annotations

import csv
import io
import json
import threading
from collections.abc import Iterator
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import pytest
from pydantic import SecretStr
from structlog.testing import capture_logs

from bus.delivery import Batch, Part, Position, Refusal
from bus.errors import RetryLater, Stop
from consumers import canvas
from consumers.delivery.canvas_api import export
from consumers.delivery.canvas_imports import MOST_FAILURES, CanvasImports
from consumers.delivery.csv_zip import Layout
from tests import canvas_model

TOKEN = "7~secret"
Answer = tuple[int, dict[str, str], bytes]


class FakeCanvas:
    """Canvas's side of "SIS Imports", on loopback, with `canvas_model` as its importer.

    script:  answers for the next requests, before any other.
    states:  the states of a new import, one per request for it.
    numbers: whether errors name the row. "Some Importers do not yet support this".
    """

    def __init__(self) -> None:
        self.script: list[Answer | None] = []
        self.states: list[str] = ["created", "importing"]
        self.ends: str | None = None
        self.numbers = True
        self.attach = True
        self.requests: list[tuple[str, str, str | None]] = []
        self.queries: list[dict[str, list[str]]] = []
        self.state: canvas_model.State = {}
        self.imports: dict[int, dict[str, Any]] = {}
        self.reports: dict[int, bytes] = {}
        self.export: list[dict[str, Any]] = []
        fake = self

        class Handler(BaseHTTPRequestHandler):
            def do_GET(self) -> None:
                self._answer(b"")

            def do_POST(self) -> None:
                self._answer(self.rfile.read(int(self.headers["Content-Length"])))

            def _answer(self, body: bytes) -> None:
                answer = fake.answer(self.command, self.path, self.headers["Authorization"], body)
                if answer is None:  # the connection breaks after the work was done
                    self.close_connection = True
                    return
                code, headers, content = answer
                self.send_response(code)
                for name, value in {**headers, "Content-Length": str(len(content))}.items():
                    self.send_header(name, value)
                self.end_headers()
                self.wfile.write(content)

            def log_message(self, format: str, *args: Any) -> None:
                pass

        self.server = ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.server.daemon_threads = True
        self.url = f"http://127.0.0.1:{self.server.server_port}"
        self.thread = threading.Thread(
            target=self.server.serve_forever, kwargs={"poll_interval": 0.01}
        )
        self.thread.start()

    def close(self) -> None:
        self.server.shutdown()
        self.thread.join()
        self.server.server_close()

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> Answer | None:
        self.requests.append((method, urlsplit(path).path, token))
        if self.script:
            scripted = self.script.pop(0)
            if scripted is None and method == "POST":
                self._create(body)
            if scripted is None or scripted[0]:
                return scripted
        where = urlsplit(path).path
        if where.startswith("/files/"):
            return 200, {"Content-Type": "text/csv"}, self.reports[int(where.split("/")[2])]
        if token != f"Bearer {TOKEN}":
            return 401, {}, b'{"errors":[{"message":"Invalid access token."}]}'
        if where.startswith("/api/v1/accounts/self/reports/sis_export_csv"):
            return self._json(self.export.pop(0) if len(self.export) > 1 else self.export[0])
        if method == "POST" and where == "/api/v1/accounts/self/sis_imports":
            self.queries.append(parse_qs(urlsplit(path).query))
            return self._json(self._create(body))
        number = int(where.rsplit("/", 1)[1])
        found = self.imports[number]
        if found["left"]:
            return self._json(
                {"id": number, "workflow_state": found["left"].pop(0), "progress": 40}
            )
        return self._json(found["end"])

    def _create(self, body: bytes) -> dict[str, Any]:
        number = len(self.imports) + 1
        refused: list[canvas_model.Refused] = []
        if self.ends is None:
            canvas_model.apply([body], self.state, refused)
        end: dict[str, Any] = {
            "id": number,
            "progress": 100,
            "workflow_state": self.ends or ("imported_with_messages" if refused else "imported"),
        }
        if refused:
            end["processing_warnings"] = [[r.file, r.message] for r in refused[:25]]
            file = io.StringIO()
            writer = csv.writer(file)
            writer.writerow(["sis_import_id", "file", "message", "row"])
            for one in refused:
                writer.writerow([number, one.file, one.message, one.row if self.numbers else None])
            self.reports[number] = file.getvalue().encode()
            if self.attach:
                # A real Canvas has its files on a separate host, with a key in the address.
                host = self.url.replace("127.0.0.1", "localhost")
                end["errors_attachment"] = {"url": f"{host}/files/{number}/download?verifier=k"}
        self.imports[number] = {"left": list(self.states), "end": end}
        return {"id": number, "workflow_state": "created", "progress": 0}

    @staticmethod
    def _json(value: dict[str, Any]) -> Answer:
        return 200, {"Content-Type": "application/json"}, json.dumps(value).encode()


@pytest.fixture
def fake() -> Iterator[FakeCanvas]:
    fake = FakeCanvas()
    yield fake
    fake.close()


@pytest.fixture
def slept() -> list[float]:
    return []


@pytest.fixture
def imports(fake: FakeCanvas, slept: list[float]) -> Iterator[CanvasImports]:
    layout = Layout(parents={"accounts.csv": "parent_account_id"})
    delivery = CanvasImports(
        fake.url, SecretStr(TOKEN), layout, poll_seconds=20.0, sleep=slept.append
    )
    yield delivery
    delivery.close()


def users(*rows: tuple[str, str]) -> Batch:
    """Return a batch of users, each with an id and a login."""
    filled = [
        dict(
            zip(
                canvas.USERS.columns,
                (id_, login, "Ann", "Bee", "Ann Bee", "ann@x.example", "active"),
                strict=True,
            )
        )
        for id_, login in rows
    ]
    messages: list[Any] = [f"message {id_}" for id_, _ in rows]
    part = Part(canvas.USERS, "student", filled, [{} for _ in rows], messages)
    return Batch([part], {Position("student", 0): len(rows)})


def test_a_batch_is_one_import_watched_to_its_end(
    fake: FakeCanvas, imports: CanvasImports, slept: list[float]
) -> None:
    assert imports.deliver(users(("u1", "ann"), ("u2", "bob"))) == []
    assert set(fake.state["users.csv"]) == {("u1",), ("u2",)}
    assert [method for method, *_ in fake.requests] == ["POST", "GET", "GET", "GET"]
    assert fake.queries == [{"import_type": ["instructure_csv"], "extension": ["zip"]}]
    assert len(slept) == 2


def test_a_batch_without_rows_is_no_import(fake: FakeCanvas, imports: CanvasImports) -> None:
    assert imports.deliver(users()) == ()
    assert fake.requests == []
    assert imports.resume("cluster", [Position("student", 0)]) == {}


@pytest.mark.parametrize("numbers", [True, False], ids=["with row numbers", "by ids in the text"])
@pytest.mark.parametrize("attach", [True, False], ids=["report", "no report"])
def test_a_row_that_canvas_refuses_is_a_refusal_of_its_message(
    fake: FakeCanvas, imports: CanvasImports, numbers: bool, attach: bool
) -> None:
    fake.numbers, fake.attach = numbers, attach
    assert imports.deliver(users(("u1", "ann"))) == []
    refused = imports.deliver(users(("u2", "bob"), ("u3", "ANN"), ("u4", "dora")))
    assert [refusal.message for refusal in refused] == ["message u3"]
    assert refused[0].reason == (
        "Canvas, users.csv: An existing Canvas user with the SIS ID u1 has already claimed u3's "
        "user_id requested login information, skipping"
    )
    assert set(fake.state["users.csv"]) == {("u1",), ("u2",), ("u4",)}


def test_the_report_is_read_without_the_token_from_another_host(
    fake: FakeCanvas, imports: CanvasImports
) -> None:
    imports.deliver(users(("u1", "ann")))
    imports.deliver(users(("u2", "ann")))
    assert [token for _, path, token in fake.requests if path.startswith("/files/")] == [None]


def test_a_reason_has_ids_and_no_names(fake: FakeCanvas, imports: CanvasImports) -> None:
    batch = users(("u1", "ann"))
    fake.imports[1] = {"left": [], "end": {}}
    end = {
        "id": 2,
        "workflow_state": "imported_with_messages",
        "processing_warnings": [
            ["users.csv", "An email did not pass validation (ann@X.example, user u1, login ann)"],
            ["users.csv", "something about nobody"],
        ],
    }
    fake.script = [FakeCanvas._json({"id": 2}), FakeCanvas._json(end)]
    with capture_logs() as logs:
        (refusal,) = imports.deliver(batch)
    assert refusal == Refusal(
        "message u1",  # type: ignore[arg-type]
        "Canvas, users.csv: An email did not pass validation (<email>, user u1, login <login_id>)",
    )
    assert logs == [
        {
            "event": "canvas reported errors or warnings that name no sent row",
            "log_level": "warning",
            "sis_import": 2,
            "count": 1,
        }
    ]


def test_an_import_that_takes_long_is_watched_again_and_not_sent_again(
    fake: FakeCanvas, imports: CanvasImports
) -> None:
    fake.states = ["importing"] * 20
    with pytest.raises(RetryLater, match=r"still running SIS import 1 \(40 %\)"):
        imports.deliver(users(("u1", "ann")))
    for _ in range(3):
        try:
            assert imports.deliver(users(("u1", "ann"))) == []
            break
        except RetryLater:
            pass
    assert [method for method, *_ in fake.requests].count("POST") == 1
    assert len(fake.imports) == 1


def test_a_lost_answer_is_sent_again_and_changes_nothing(
    fake: FakeCanvas, imports: CanvasImports
) -> None:
    fake.script = [None]
    with pytest.raises(RetryLater, match="cannot be reached"):
        imports.deliver(users(("u1", "ann")))
    once = json.dumps([*fake.state["users.csv"].values()])
    assert imports.deliver(users(("u1", "ann"))) == []
    assert json.dumps([*fake.state["users.csv"].values()]) == once
    assert len(fake.imports) == 2


@pytest.mark.parametrize(
    ("answer", "after"),
    [
        ((429, {"Retry-After": "7"}, b""), 7.0),
        ((403, {}, b"403 Forbidden (Rate Limit Exceeded)\n"), None),
        ((500, {}, b""), None),
        ((503, {"Retry-After": "Wed, 25 Nov 2026 00:00:00 GMT"}, b""), None),
    ],
)
def test_what_passes_is_tried_again_when_canvas_says(
    fake: FakeCanvas, imports: CanvasImports, answer: Answer, after: float | None
) -> None:
    fake.script = [answer]
    with pytest.raises(RetryLater) as error:
        imports.deliver(users(("u1", "ann")))
    assert error.value.after == after
    assert imports.deliver(users(("u1", "ann"))) == []


@pytest.mark.parametrize(
    ("answer", "advice"),
    [
        ((401, {}, b"{}"), "token"),
        ((403, {}, b'{"errors":["SIS imports are not enabled for this account"]}'), "permissions"),
        ((404, {}, b"{}"), "account"),
        ((302, {"Location": "/login"}, b""), "url"),
        ((200, {}, b"<html>"), "not Canvas"),
    ],
)
def test_what_a_person_must_mend_stops(
    fake: FakeCanvas, imports: CanvasImports, answer: Answer, advice: str
) -> None:
    fake.script = [answer]
    with pytest.raises(Stop, match=advice) as error:
        imports.deliver(users(("u1", "ann")))
    assert TOKEN not in str(error.value)


def test_a_canvas_that_is_not_there_is_tried_again(slept: list[float]) -> None:
    fake = FakeCanvas()
    fake.close()
    imports = CanvasImports(fake.url, SecretStr(TOKEN), Layout(), sleep=slept.append)
    with pytest.raises(RetryLater, match="ConnectError"):
        imports.deliver(users(("u1", "ann")))
    imports.close()


def test_an_import_that_fails_is_sent_again_and_in_the_end_stops(
    fake: FakeCanvas, imports: CanvasImports
) -> None:
    fake.ends = "failed_with_messages"
    for _ in range(MOST_FAILURES - 1):
        with pytest.raises(RetryLater, match="could not run"):
            imports.deliver(users(("u1", "ann")))
    with pytest.raises(Stop, match="SIS import 3"):
        imports.deliver(users(("u1", "ann")))
    assert len(fake.imports) == MOST_FAILURES


def test_an_import_that_a_person_aborted_stops(fake: FakeCanvas, imports: CanvasImports) -> None:
    fake.ends = "aborted"
    with pytest.raises(Stop, match="aborted"):
        imports.deliver(users(("u1", "ann")))


# The data in Canvas


def test_its_own_report_says_what_canvas_has(fake: FakeCanvas, tmp_path: Path) -> None:
    fake.reports[7] = b"a zip"
    done = {"id": 3, "status": "complete", "attachment": {"url": f"{fake.url}/files/7"}}
    fake.export = [{"id": 3, "status": "created"}, {"id": 3, "status": "running"}, done]
    waited: list[float] = []
    path = export(fake.url, SecretStr(TOKEN), "self", tmp_path, sleep=waited.append)
    assert path.read_bytes() == b"a zip"
    assert len(waited) == 2
    assert [method for method, *_ in fake.requests] == ["POST", "GET", "GET", "GET"]


def test_a_report_that_canvas_cannot_make_stops(fake: FakeCanvas, tmp_path: Path) -> None:
    fake.export = [{"id": 3, "status": "error"}]
    with pytest.raises(Stop, match="--export PATH"):
        export(fake.url, SecretStr(TOKEN), "self", tmp_path)


def test_without_an_address_canvas_cannot_be_asked(tmp_path: Path) -> None:
    with pytest.raises(Stop, match="name an export"):
        canvas.export_from_canvas(canvas.Settings(out=tmp_path), tmp_path)
