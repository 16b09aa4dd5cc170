"""Kills at any moment, rubbish, and a product that is down: nothing is lost or duplicated."""

from __future__ import annotations

import base64
import random
import secrets
import signal
from collections import Counter
from contextlib import ExitStack
from pathlib import Path

import httpx2
import pytest
from confluent_kafka import Message, Producer
from confluent_kafka.admin import AdminClient

from bus.demo.sample import FAMILY, GIVEN, District
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import headers_of
from bus.kafka.reader import scan
from bus.local.machine import free_port
from bus.standard import KINDS
from tests import canvas_model, sds_model
from tests.integration.commands import Commands, until
from tests.oneroster_truth import truth
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
DISTRICT = District(seed=3, students=300, change=0.2)


def extract(commands: Commands, day: int) -> Path:
    """Write a day's extract into the folder of the test."""
    return DISTRICT.write(commands.cwd / f"day-{day}.zip", day)


def published(commands: Commands, kind: str) -> list[Message]:
    """Return all committed messages in the topic of a kind."""
    return list(scan(commands.settings, topics.topic(commands.settings, kind)))


def killed_at_some_moment(commands: Commands, *arguments: str, within: float) -> bool:
    """Start a command and kill it without warning; return whether it had ended before."""
    process = commands.start(*arguments)
    try:
        process.wait(random.uniform(0.3, within))
    except Exception:
        process.kill()
    process.communicate()
    return process.returncode == 0


def test_a_producer_killed_at_any_moment_publishes_each_record_once(commands: Commands) -> None:
    first, second = extract(commands, 1), extract(commands, 2)
    for path in (first, second):
        arguments = ("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
        for _ in range(4):
            killed_at_some_moment(commands, *arguments, within=3.0)
        commands.run(*arguments)
    again = commands.run("produce", "oneroster-csv", str(second))["records"]
    assert {kind: counts | {"unchanged": 0} for kind, counts in again.items()} == {
        kind: dict.fromkeys(counts, 0) for kind, counts in again.items()
    }

    people, after = Counter[str](), {}
    for message in published(commands, "student"):
        people[(message.key() or b"").decode()] += 1
        after[(message.key() or b"").decode()] = dict(headers_of(message))["ce_type"]
    assert max(people.values()) <= 2  # at most one event on each of the two days
    active = {id_ for id_, kind in after.items() if not (kind or b"").endswith(b".withdrawn")}
    assert active == {id_ for id_ in truth(second).people if id_.startswith("student-")}


@pytest.mark.parametrize("product", ["canvas", "microsoft-sds"])
def test_a_consumer_killed_at_any_moment_delivers_each_change(
    commands: Commands, product: str
) -> None:
    out = commands.cwd / product
    arguments = ("consume", product, "--out", str(out), "--until-caught-up")
    state: canvas_model.State = {}
    for day in (1, 2):
        path = extract(commands, day)
        commands.run("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
        for _ in range(3):
            killed_at_some_moment(commands, *arguments, within=4.0)
        assert commands.run(*arguments)["deadLettered"] == 0
        if product == "canvas":
            state = canvas_model.apply(sorted(out.glob("*.zip")))
            assert canvas_model.rosters(state) == truth(path).rosters
        else:
            assert sds_model.rosters(sds_model.load(out)) == truth(path).rosters


def test_instances_share_the_work_and_one_may_die(commands: Commands) -> None:
    out = commands.cwd / "canvas"
    one = commands.start("consume", "canvas", "--out", str(out))
    try:
        with commands.running("consume", "canvas", "--out", str(out)):
            commands.run("produce", "oneroster-csv", str(extract(commands, 1)))
            until(lambda: list(out.glob("*.zip")), "the first zip")
            one.kill()
            one.communicate()
            last = extract(commands, 2)
            commands.run("produce", "oneroster-csv", str(last), "--allow-mass-withdrawal")

            def all_there() -> bool:
                state = canvas_model.apply(sorted(out.glob("*.zip")))
                return canvas_model.rosters(state) == truth(last).rosters

            until(all_there, "the second day's rosters in Canvas")
    finally:
        if one.poll() is None:
            one.kill()
            one.communicate()


@pytest.mark.parametrize("instances", [1, 2])
def test_a_consumer_that_is_far_behind_gives_nothing_up(commands: Commands, instances: int) -> None:
    """It joined when the topics were empty; then all records came at once while it was stopped."""
    commands.variables |= {"BUS_CONSUMER__HOLD_SECONDS": "0", "BUS_CONSUMER__HOLD_RECORDS": "50"}
    out = commands.cwd / "canvas"
    with ExitStack() as ends:
        arguments = ("consume", "canvas", "--out", str(out))
        running = [ends.enter_context(commands.running(*arguments)) for _ in range(instances)]
        commands.run("produce", "oneroster-csv", str(extract(commands, 1)))
        until(lambda: list(out.glob("*.zip")), "the first zip")
        for one in running:
            one.send_signal(signal.SIGSTOP)
        last = District(seed=8, students=600).write(commands.cwd / "more.zip", 1)
        commands.run("produce", "oneroster-csv", str(last), "--allow-mass-withdrawal")
        for one in running:
            one.send_signal(signal.SIGCONT)

        def all_there() -> bool:
            state = canvas_model.apply(sorted(out.glob("*.zip")))
            return canvas_model.rosters(state) == truth(last).rosters

        until(all_there, "the second extract's rosters in Canvas")
    assert commands.run("deadletters", "list", "canvas")["deadLetters"] == []


def test_a_product_that_is_down_loses_nothing_and_gets_each_event_once(commands: Commands) -> None:
    port = free_port([])
    commands.variables |= {
        "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
        "BUS_PRODUCTS__WEBHOOK__KINDS": "org,student",
        "BUS_CONSUMER__RETRY_FIRST": "0.1",
        "BUS_CONSUMER__RETRY_MOST": "0.5",
    }
    commands.run("produce", "oneroster-csv", str(extract(commands, 1)))

    def state(path: str) -> httpx2.Response:
        return httpx2.get(f"http://127.0.0.1:{port}{path}", trust_env=False)

    with Receiver(SECRET) as vendor:
        down = True
        vendor.answer = lambda _: 503 if down else 204
        arguments = ("consume", "webhook", "--url", vendor.url, "--http-port", str(port))
        with commands.running(*arguments):
            until(lambda: len(vendor.received) >= 5, "five tries")
            until(lambda: state("/readyz").status_code == 503, "not ready")
            assert state("/livez").status_code == 200
            metrics = state("/metrics/").text
            assert 'schoolbus_circuit_open{product="webhook"} 1.0' in metrics
            down = False
            reported = vendor.wait(DISTRICT.schools + 1 + DISTRICT.students, 60)
            until(lambda: state("/readyz").status_code == 200, "ready again")
            until(
                lambda: "schoolbus_freshness_seconds_count" in state("/metrics/").text, "freshness"
            )
        assert len({event.id for event in reported}) == len(reported)
        kinds = Counter(event.event["type"] for event in vendor.accepted)
        assert kinds == {"org.created": DISTRICT.schools + 1, "student.created": DISTRICT.students}


def test_an_instance_that_joins_while_the_product_is_down_does_not_turn_time_back(
    commands: Commands,
) -> None:
    """The second instance takes over a part of the batch that the first was retrying."""
    commands.variables |= {
        "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
        "BUS_PRODUCTS__WEBHOOK__KINDS": "student",
        "BUS_CONSUMER__RETRY_FIRST": "0.2",
        "BUS_CONSUMER__RETRY_MOST": "2",
    }
    for day in (1, 2, 3):
        path = str(extract(commands, day))
        commands.run("produce", "oneroster-csv", path, "--allow-mass-withdrawal")
    order = [dict(headers_of(m))["ce_id"].decode() for m in published(commands, "student")]  # type: ignore[union-attr]
    owner = {
        dict(headers_of(m))["ce_id"].decode(): (m.key() or b"").decode()  # type: ignore[union-attr]
        for m in published(commands, "student")
    }
    with Receiver(SECRET) as vendor:
        down = True
        vendor.answer = lambda _: 503 if down else 204
        arguments = ("consume", "webhook", "--url", vendor.url)
        with commands.running(*arguments):
            until(lambda: len(vendor.received) >= 5, "five tries of the first instance")
            with commands.running(*arguments):
                group = f"{commands.settings.topic_prefix}.webhook"
                until(lambda: members(commands, group) == 2, "both instances at work")
                down = False
                until(lambda: {e.id for e in vendor.accepted} == set(order), "all events")
        by_student: dict[str, list[str]] = {}
        for event in vendor.accepted:
            by_student.setdefault(owner[event.id], []).append(event.id)
    for student, came in by_student.items():
        expected = [id_ for id_ in order if owner[id_] == student]
        assert list(dict.fromkeys(came)) == expected
        assert came[-1] == expected[-1]


def members(commands: Commands, group: str) -> int:
    """Return the number of members of a group that have partitions."""
    admin = AdminClient(client_settings(commands.settings))
    (described,) = admin.describe_consumer_groups([group]).values()
    return sum(1 for m in described.result().members if m.assignment.topic_partitions)


def test_rubbish_goes_to_the_dead_letters_as_it_came_and_the_rest_flows_on(
    commands: Commands,
) -> None:
    commands.run("produce", "oneroster-csv", str(extract(commands, 1)))
    producer = Producer(client_settings(commands.settings))
    topic = topics.topic(commands.settings, "student")
    rubbish = [b"<xml/>", b"", b"\x00\x00\x00\x00\x63too new", b"\x00\x7f\xff\xff\xff?"]
    for number, value in enumerate(rubbish):
        producer.produce(topic, value, f"r{number}", headers={"from": b"a rogue"})
    producer.flush(10)
    out = commands.cwd / "canvas"
    arguments = ("consume", "canvas", "--out", str(out), "--until-caught-up")
    assert commands.run(*arguments)["deadLettered"] == len(rubbish)
    assert commands.run(*arguments)["deadLettered"] == 0
    state = canvas_model.apply(sorted(out.glob("*.zip")))
    assert canvas_model.rosters(state) == truth(commands.cwd / "day-1.zip").rosters

    name = topics.deadletters(commands.settings, "canvas")
    dead_letters = {m.key(): m for m in scan(commands.settings, name)}
    for number, value in enumerate(rubbish):
        dead_letter = dead_letters[f"r{number}".encode()]
        headers = dict(headers_of(dead_letter))
        assert dead_letter.value() == value
        assert headers["from"] == b"a rogue"
        assert headers["dl_reason"]
        assert headers["dl_attempts"] == b"1"
        assert (headers["dl_place"] or b"").decode().startswith(topic)
    listed = commands.run("deadletters", "list", "canvas")["deadLetters"]
    assert {dead_letter["id"] for dead_letter in listed} == {f"r{n}" for n in range(len(rubbish))}


def test_no_log_line_holds_a_name_or_an_address(commands: Commands) -> None:
    """The log has every level, of a run with all types of faults."""
    commands.variables |= {
        "BUS_TELEMETRY__LOG_LEVEL": "debug",
        "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
        "BUS_CONSUMER__RETRY_FIRST": "0.05",
    }
    path = extract(commands, 1)
    logs = []
    with Receiver(SECRET) as vendor:
        vendor.next(500, times=3)
        vendor.next("drop", times=2)
        vendor.next(400, times=4)
        for arguments in (
            ("produce", "oneroster-csv", str(path)),
            ("consume", "canvas", "--out", "canvas", "--until-caught-up"),
            ("consume", "microsoft-sds", "--out", "sds", "--until-caught-up"),
            ("consume", "webhook", "--url", vendor.url, "--until-caught-up"),
        ):
            process = commands.start(*arguments)
            printed, log = process.communicate(timeout=120)
            logs.append(printed + log)
            assert process.returncode == 0, log
    logged = "\n".join(logs)
    names = [name for name in (*GIVEN, *FAMILY) if len(name) > 4]
    assert [name for name in names if name in logged] == []
    assert "@" not in logged.replace("127.0.0.1", "")


def test_the_trace_goes_from_the_producer_to_the_product(commands: Commands) -> None:
    commands.variables |= {
        "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
        "BUS_PRODUCTS__WEBHOOK__KINDS": "org",
    }
    commands.run("produce", "oneroster-csv", str(extract(commands, 1)))
    traces = {
        (dict(headers_of(message))["traceparent"] or b"").decode()
        for kind in KINDS
        for message in published(commands, kind)
    }
    assert len(traces) == 1
    with Receiver(SECRET) as vendor:
        commands.run("consume", "webhook", "--url", vendor.url, "--until-caught-up")
        assert {event.headers["traceparent"] for event in vendor.accepted} == traces
