"""Delivery by POST: in order for each student, once on success, and again after a failure."""

from __future__ import annotations

import json
import random
import threading
import time
from collections.abc import Callable, Iterator
from datetime import UTC, datetime, timedelta
from email.utils import format_datetime
from pathlib import Path
from typing import Any

import pytest
from standardwebhooks import Webhook

from bus import plugins
from bus.delivery import Batch, Part, Position, Row, Table
from bus.errors import Never, RetryLater, Stop
from bus.product import Product
from bus.settings import load
from consumers.delivery import endpoint, http
from consumers.delivery.http import Http, HttpSettings, Post
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
EVENTS = Table("events", (), {})


class Message:
    """The part of a Kafka message that the delivery uses."""

    def __init__(self, topic: str, partition: int, offset: int) -> None:
        self._place = (topic, partition, offset)

    def topic(self) -> str:
        return self._place[0]

    def partition(self) -> int:
        return self._place[1]

    def offset(self) -> int:
        return self._place[2]


def compose(kind: str, row: Row, message: Any) -> Post | None:
    """Return a request whose id is the message's position, with the kind and the row as data."""
    if row.get("skip"):
        return None
    if row.get("bad"):
        raise Never("it cannot be delivered")
    now = datetime.now(UTC)
    name = f"{message.topic()}-{message.partition()}-{message.offset()}"
    body = json.dumps({"type": kind, "timestamp": now.isoformat(), "data": row})
    return Post(
        body.encode(),
        {
            "webhook-id": name,
            "webhook-timestamp": str(int(now.timestamp())),
            "webhook-signature": Webhook(SECRET).sign(name, now, body),
        },
    )


def part(kind: str, *rows: tuple[str, Any] | Row, start: int = 0) -> Part:
    """Return a part of rows in partition 0, each (student, any value) or a whole row with the key `of`."""
    whole = [row if isinstance(row, dict) else {"of": row[0], "n": row[1]} for row in rows]
    owner = {"student": "sourcedId", "enrollment": "userSourcedId"}.get(kind, "studentSourcedId")
    return Part(
        EVENTS,
        kind,
        whole,
        [{owner: row["of"]} for row in whole],
        [Message(kind, 0, start + i) for i in range(len(whole))],  # type: ignore[misc]
    )


def batch(*parts: Part) -> Batch:
    return Batch(list(parts), {Position(p.kind, 0): len(p.rows) for p in parts})


@pytest.fixture
def receiver() -> Iterator[Receiver]:
    with Receiver(SECRET) as running:
        yield running


@pytest.fixture
def open_http(receiver: Receiver, tmp_path: Path) -> Iterator[Callable[..., Http]]:
    """Open deliveries to the receiver, and close them at the end."""
    opened = []

    def make(**settings: Any) -> Http:
        settings = {"url": receiver.url, "state": tmp_path, **settings}
        opened.append(Http(HttpSettings(**settings), compose))
        return opened[-1]

    yield make
    for each in opened:
        each.close()


Open = Callable[..., Http]


def delivered_rows(receiver: Receiver) -> list[tuple[str, Any]]:
    return [(e.data["of"], e.data["n"]) for e in receiver.accepted]


# ---- success -------------------------------------------------------------------------------------


def test_each_student_in_order_while_many_requests_are_under_way(
    receiver: Receiver, open_http: Open
) -> None:
    chance = random.Random(1)
    under_way, most, lock = 0, 0, threading.Lock()

    def slowly(_: Received) -> int:
        nonlocal under_way, most
        with lock:
            under_way += 1
            most = max(most, under_way)
            wait = chance.uniform(0, 0.01)
        time.sleep(wait)
        with lock:
            under_way -= 1
        return 204

    receiver.answer = slowly
    rows = [(f"s{chance.randrange(20)}", n) for n in range(300)]
    assert open_http(concurrency=8).deliver(batch(part("attendance", *rows))) == []

    by_student: dict[str, list[int]] = {}
    for student, n in delivered_rows(receiver):
        by_student.setdefault(student, []).append(n)
    assert all(numbers == sorted(numbers) for numbers in by_student.values())
    assert sorted(delivered_rows(receiver)) == sorted(rows)
    assert 2 < most <= 8


def test_a_part_is_finished_before_the_next_begins(receiver: Receiver, open_http: Open) -> None:
    students = part("student", *((f"s{n}", "student") for n in range(10)))
    enrollments = part("enrollment", *((f"s{n}", "enrollment") for n in range(10)))
    open_http().deliver(batch(students, enrollments))
    assert [kind for _, kind in delivered_rows(receiver)] == ["student"] * 10 + ["enrollment"] * 10


def test_connections_are_kept_between_batches(receiver: Receiver, open_http: Open) -> None:
    delivery = open_http(concurrency=1)
    for start in range(5):
        delivery.deliver(batch(part("attendance", ("s1", start), start=start)))
    assert len(receiver.accepted) == 5
    assert receiver.connections == 1


def test_a_connection_that_the_endpoint_has_closed_is_not_used(
    receiver: Receiver, open_http: Open
) -> None:
    delivery = open_http(concurrency=1)
    for start in range(5):
        assert delivery.deliver(batch(part("attendance", ("s1", start), start=start))) == []
        receiver.hang_up()
        time.sleep(0.02)
    assert [n for _, n in delivered_rows(receiver)] == list(range(5))
    assert receiver.connections == 5


def test_what_is_not_for_the_endpoint_is_not_sent(receiver: Receiver, open_http: Open) -> None:
    rows = ({"of": "s1", "n": 0, "skip": True}, ("s1", 1))
    assert open_http().deliver(batch(part("attendance", *rows))) == []
    assert delivered_rows(receiver) == [("s1", 1)]


def test_the_same_batch_after_a_crash_is_sent_again_under_the_same_ids(
    receiver: Receiver, open_http: Open
) -> None:
    same = batch(part("attendance", ("s1", 0), ("s2", 0)))
    open_http().deliver(same)
    open_http().deliver(same)
    ids = sorted(e.id for e in receiver.accepted)
    assert ids == ["attendance-0-0"] * 2 + ["attendance-0-1"] * 2


# ---- failures ------------------------------------------------------------------------------------


def test_what_was_taken_is_not_sent_again_with_the_same_batch(
    receiver: Receiver, open_http: Open
) -> None:
    down = {"s3"}
    receiver.answer = lambda event: 503 if event.data["of"] in down else 204
    same = batch(part("attendance", *((f"s{n % 5}", n) for n in range(20))))
    delivery = open_http()
    with pytest.raises(RetryLater, match=r"does not accept events now: status 503 \(1x\)"):
        delivery.deliver(same)
    assert [e.data["n"] for e in receiver.received if e.data["of"] == "s3"] == [3]

    down.clear()
    assert delivery.deliver(same) == []
    assert sorted(n for _, n in delivered_rows(receiver)) == list(range(20))
    assert [n for student, n in delivered_rows(receiver) if student == "s3"] == [3, 8, 13, 18]


def test_after_a_few_failures_the_others_wait(receiver: Receiver, open_http: Open) -> None:
    receiver.answer = lambda _: 502
    with pytest.raises(RetryLater):
        open_http(concurrency=2).deliver(
            batch(part("attendance", *((f"s{n}", n) for n in range(100))))
        )
    assert len(receiver.received) <= http.FEW + 1


def test_what_depends_on_what_was_not_taken_waits(receiver: Receiver, open_http: Open) -> None:
    receiver.next(500)
    with pytest.raises(RetryLater):
        open_http().deliver(batch(part("student", ("s1", 0)), part("enrollment", ("s2", 0))))
    assert [e.event["type"] for e in receiver.received] == ["student"]


@pytest.mark.parametrize("status", [301, 401, 403, 404, 408, 409, 425, 429, 500, 502, 503, 504])
def test_again_later(status: int, receiver: Receiver, open_http: Open) -> None:
    receiver.next(status, headers={"location": receiver.url + "/elsewhere"})
    delivery, same = open_http(), batch(part("attendance", ("s1", 0)))
    with pytest.raises(RetryLater, match=f"status {status}") as raised:
        delivery.deliver(same)
    assert raised.value.after is None
    assert delivery.deliver(same) == []
    assert [e.path for e in receiver.received] == ["/events", "/events"]


def test_too_many_requests_says_when(receiver: Receiver, open_http: Open) -> None:
    receiver.next(429, headers={"retry-after": "7"})
    with pytest.raises(RetryLater) as raised:
        open_http(concurrency=1).deliver(batch(part("attendance", ("s1", 0), ("s2", 0))))
    assert raised.value.after == 7
    assert len(receiver.received) == 1


def test_retry_after_as_a_date() -> None:
    later = format_datetime(datetime.now(UTC) + timedelta(seconds=90), usegmt=True)
    assert endpoint.seconds(later) == pytest.approx(90, abs=2)
    assert endpoint.seconds("Thu, 01 Jan 1970 00:00:00 GMT") == 0
    assert endpoint.seconds("86400") == endpoint.LONGEST_WAIT
    assert endpoint.seconds("soon") is None


@pytest.mark.parametrize(
    ("reply", "why"),
    [
        ("hang", "no answer in time"),
        ("trickle", "no answer in time"),
        ("drop", "the connection broke"),
    ],
)
def test_no_answer(reply: Any, why: str, receiver: Receiver, open_http: Open) -> None:
    receiver.next(reply)
    delivery, same = open_http(total_seconds=0.3), batch(part("attendance", ("s1", 0)))
    began = time.monotonic()
    with pytest.raises(RetryLater, match=why):
        delivery.deliver(same)
    assert time.monotonic() - began < 5
    assert delivery.deliver(same) == []
    assert [e.id for e in receiver.received] == ["attendance-0-0"] * 2


def test_nobody_listens(receiver: Receiver, open_http: Open) -> None:
    delivery = open_http(url="http://127.0.0.1:9/events?token=hidden")
    with pytest.raises(RetryLater, match="no connection") as raised:
        delivery.deliver(batch(part("attendance", ("s1", 0))))
    assert "hidden" not in str(raised.value)


def test_an_endless_answer_counts_by_its_status(receiver: Receiver, open_http: Open) -> None:
    receiver.next(200, headers={"content-length": "1000000000"})
    assert open_http(total_seconds=0.3).deliver(batch(part("attendance", ("s1", 0)))) == []


def test_a_slow_endpoint_keeps_the_loop_in_its_group(
    receiver: Receiver, open_http: Open, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(http, "TRY_SECONDS", 0.1)

    def slow(_: Received) -> int:
        time.sleep(0.06)
        return 204

    receiver.answer = slow
    delivery, same = open_http(), batch(part("attendance", *(("s1", n) for n in range(5))))
    tries = 0
    while True:
        try:
            delivery.deliver(same)
            break
        except RetryLater as later:
            assert "is slow" in str(later)
            tries += 1
    assert tries >= 1
    assert delivered_rows(receiver) == [("s1", n) for n in range(5)]


def test_when_partitions_are_assigned_again_what_was_taken_of_them_is_forgotten(
    receiver: Receiver, open_http: Open
) -> None:
    receiver.answer = lambda event: 503 if event.data["of"] == "s2" else 204
    delivery, same = open_http(), batch(part("attendance", ("s1", 0), ("s2", 0)))
    for _ in range(2):
        with pytest.raises(RetryLater):
            delivery.deliver(same)
    assert len(delivered_rows(receiver)) == 1
    assert delivery.resume("cluster", [Position("attendance", 0)]) == {}
    with pytest.raises(RetryLater):
        delivery.deliver(same)
    assert len(delivered_rows(receiver)) == 2


# ---- records that it never accepts ---------------------------------------------------------------


def test_a_refused_event_goes_to_the_dead_letters_and_its_lane_goes_on(
    receiver: Receiver, open_http: Open
) -> None:
    receiver.answer = lambda event: 400 if event.data["n"] == 1 else 204
    rows = [("s1", 0), ("s1", 1), ("s1", 2), {"of": "s1", "n": 3, "bad": True}]
    one = part("attendance", *rows)
    refusals = open_http().deliver(batch(one))
    assert [(r.message, r.reason) for r in refusals] == [
        (one.messages[1], "the endpoint refused it with status 400"),
        (one.messages[3], "it cannot be delivered"),
    ]
    assert delivered_rows(receiver) == [("s1", 0), ("s1", 2)]


def test_a_refusal_is_remembered_while_the_rest_is_tried_again(
    receiver: Receiver, open_http: Open
) -> None:
    receiver.next(422)
    receiver.next(503)
    delivery, same = open_http(), batch(part("attendance", ("s1", 0), ("s1", 1)))
    with pytest.raises(RetryLater):
        delivery.deliver(same)
    refusals = delivery.deliver(same)
    assert [r.reason for r in refusals] == ["the endpoint refused it with status 422"]
    assert [e.data["n"] for e in receiver.received] == [0, 1, 1]


def test_one_that_refuses_everything_is_not_let_empty_the_topics(
    receiver: Receiver, open_http: Open
) -> None:
    receiver.answer = lambda _: 400
    delivery = open_http(refusals_in_a_row=5, concurrency=1)
    assert len(delivery.deliver(batch(part("attendance", *(("s1", n) for n in range(4)))))) == 4
    with pytest.raises(Stop, match=r"refused the last 5 events .*status 400.*check its secret"):
        delivery.deliver(batch(part("attendance", ("s1", 4), ("s1", 5), start=4)))
    assert len(receiver.received) == 5


def test_an_event_on_which_the_vendor_breaks_is_given_up(
    receiver: Receiver, open_http: Open
) -> None:
    receiver.answer = lambda event: 500 if event.data["n"] == 0 else 204
    delivery = open_http(give_up_hours=0.05 / 3600)
    same = batch(part("attendance", ("s1", 0), ("s1", 1)))
    with pytest.raises(RetryLater):
        delivery.deliver(same)
    time.sleep(0.06)
    assert [r.reason[:32] for r in delivery.deliver(same)] == ["the endpoint answered status 500"]
    assert delivered_rows(receiver) == [("s1", 1)]


# ---- an endpoint that is switched off ------------------------------------------------------------


def test_status_410_switches_it_off_until_a_person_switches_it_on(
    receiver: Receiver, open_http: Open, tmp_path: Path
) -> None:
    receiver.next(410)
    same = batch(part("attendance", ("s1", 0)))
    with pytest.raises(Stop, match="is switched off: it answered 410 Gone"):
        open_http().deliver(same)
    with pytest.raises(Stop, match=r"delete .*endpoint-[0-9a-f]{12}\.json and start again"):
        open_http()
    assert len(receiver.received) == 1
    open_http(url=receiver.url + "/new")  # another address is another endpoint

    (marker,) = tmp_path.glob("endpoint-*.json")
    marker.unlink()
    assert open_http().deliver(same) == []


@pytest.fixture
def of_a_bus(
    receiver: Receiver, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> Iterator[Callable[[], Http]]:
    """Open the delivery as `bus consume` does, with `home` set only in bus.toml."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("BUS_HOME", raising=False)
    monkeypatch.delenv("BUS_CONFIG", raising=False)
    (tmp_path / "bus.toml").write_text('home = "elsewhere/home"\n')
    product = Product("hook", (EVENTS,), HttpSettings, lambda given: Http(given, compose))
    opened = []

    def make() -> Http:
        settings = plugins.product_settings(product, load(), url=receiver.url)
        opened.append(product.open(settings))
        return opened[-1]  # type: ignore[return-value]

    yield make
    for each in opened:
        each.close()


def test_what_is_known_of_an_endpoint_lies_in_the_home_of_bus_toml(
    receiver: Receiver, of_a_bus: Callable[[], Http], tmp_path: Path
) -> None:
    receiver.next(503)
    with pytest.raises(RetryLater):
        of_a_bus().deliver(batch(part("attendance", ("s1", 0))))
    assert len(list(tmp_path.glob("elsewhere/home/products/endpoint-*.json"))) == 1
    assert not (tmp_path / ".bus").exists()


def test_an_endpoint_that_an_earlier_version_switched_off_stays_off(
    receiver: Receiver, of_a_bus: Callable[[], Http], open_http: Open, tmp_path: Path
) -> None:
    """Version 0.1.0 kept its state in .bus of the current folder, whatever bus.toml set."""
    receiver.next(410)
    with pytest.raises(Stop, match="410 Gone"):
        open_http(state=tmp_path / ".bus" / "products").deliver(batch(part("student", ("s1", 0))))
    with pytest.raises(Stop, match=r"delete elsewhere/home/products/endpoint-.*\.json"):
        of_a_bus()
    assert len(receiver.received) == 1

    (marker,) = tmp_path.glob("elsewhere/home/products/endpoint-*.json")
    marker.unlink()
    assert of_a_bus().deliver(batch(part("student", ("s1", 0)))) == []  # it stays switched on


def failing_since(folder: Path, ago: timedelta) -> Path:
    """Set how long the endpoint has been failing in its file, and return the file."""
    (marker,) = folder.glob("endpoint-*.json")
    known = json.loads(marker.read_text())
    known["failingSince"] = (datetime.now(UTC) - ago).isoformat()
    marker.write_text(json.dumps(known))
    return marker


def test_failing_for_days_switches_it_off(
    receiver: Receiver, open_http: Open, tmp_path: Path
) -> None:
    receiver.answer = lambda _: 503
    same = batch(part("attendance", ("s1", 0)))
    with pytest.raises(RetryLater):
        open_http().deliver(same)
    failing_since(tmp_path, timedelta(hours=119))
    with pytest.raises(RetryLater):
        open_http().deliver(same)
    failing_since(tmp_path, timedelta(hours=121))
    with pytest.raises(Stop, match="it has failed for 121 hours, last with status 503"):
        open_http().deliver(same)
    with pytest.raises(Stop, match="switched off"):
        open_http()


def test_one_success_and_it_is_well(receiver: Receiver, open_http: Open, tmp_path: Path) -> None:
    receiver.next(503)
    delivery, same = open_http(), batch(part("attendance", ("s1", 0)))
    with pytest.raises(RetryLater):
        delivery.deliver(same)
    assert len(list(tmp_path.iterdir())) == 1
    delivery.deliver(same)
    assert list(tmp_path.iterdir()) == []


# ---- where it may send ---------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("url", "says"),
    [
        ("", "set `url`"),
        ("vendor.example", "not a web address"),
        ("ftp://vendor.example/x", "not a web address"),
        ("http://vendor.example/x?key=hidden", "give its https:// address"),
        ("http://user:hidden@10.0.0.1/", "give its https:// address"),
        ("http://127.0.0.1.vendor.example/", "give its https:// address"),
    ],
)
def test_records_go_encrypted(url: str, says: str, open_http: Open) -> None:
    with pytest.raises(Stop, match=says) as raised:
        open_http(url=url)
    assert "hidden" not in str(raised.value)


def test_by_the_proxy_of_the_environment(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("all_proxy", "no_proxy", "https_proxy"):
        monkeypatch.delenv(name, raising=False)
        monkeypatch.delenv(name.upper(), raising=False)
    vendor = endpoint.address("https://vendor.example/events")
    assert endpoint.proxy(vendor) is None
    monkeypatch.setenv("ALL_PROXY", "http://all.example:3128")
    assert endpoint.proxy(vendor) == "http://all.example:3128"
    monkeypatch.setenv("HTTPS_PROXY", "http://filter.example:3128")
    assert endpoint.proxy(vendor) == "http://filter.example:3128"
    monkeypatch.setenv("NO_PROXY", "vendor.example")
    assert endpoint.proxy(vendor) is None


@pytest.mark.parametrize(
    "url",
    ["https://vendor.example/x", "http://localhost:1/", "http://127.0.0.1:1/", "http://[::1]:1/"],
)
def test_or_stay_on_this_machine(url: str) -> None:
    assert endpoint.shown(endpoint.address(url)) == url
