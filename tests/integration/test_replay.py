"""Replays beside live consumers: exact, never back in time, and stopped anywhere."""

from __future__ import annotations

import base64
import csv
import io
import secrets
import signal
import time
import zipfile
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka.admin import (  # type: ignore[attr-defined]
    AdminClient,
    AlterConfigOpType,
    ConfigEntry,
    ConfigResource,
    ResourceType,
)

from bus.demo.sample import FAMILY, District
from bus.kafka.client import client_settings
from bus.kafka.cloudevents import header
from bus.kafka.reader import scan
from bus.kafka.topics import topic
from bus.replay import history, presence
from bus.replay.window import resolve
from tests import canvas_model, sds_model
from tests.faults import checker
from tests.integration.commands import Commands, until
from tests.integration.test_faults import published
from tests.oneroster_truth import truth
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(secrets.token_bytes(32)).decode()
DISTRICT = District(seed=9, students=200, change=0.3)


def day(commands: Commands, number: int) -> Path:
    """Publish a day's extract."""
    path = DISTRICT.write(commands.cwd / f"day-{number}.zip", number)
    commands.run("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
    return path


def canvas_is(folder: Path, path: Path) -> bool:
    """Return whether Canvas has what an extract says after all zips of a folder."""
    try:
        checker.canvas(folder).equals_sis(path)
    except AssertionError:
        return False
    return True


def rows(folder: Path, name: str) -> list[dict[str, str]]:
    """Return the rows of a file in all zips of a folder."""
    found = []
    for path in sorted(folder.glob("*.zip")):
        with zipfile.ZipFile(path) as archive:
            if name in archive.namelist():
                text = io.StringIO(archive.read(name).decode(), newline="")
                found += list(csv.DictReader(text))
    return found


def test_beside_a_live_consumer_no_state_goes_back_in_time(commands: Commands) -> None:
    """A replay does not undo the changes of a day that is published while it runs."""
    canvas, sds = str(commands.cwd / "canvas"), str(commands.cwd / "sds")
    day(commands, 1)
    last = day(commands, 2)
    with (
        commands.running("consume", "canvas", "--out", canvas),
        commands.running("consume", "microsoft-sds", "--out", sds),
    ):
        until(lambda: canvas_is(Path(canvas), last), "the second day in Canvas")
        replays = [
            commands.start("replay", "canvas", "--out", canvas, "--rate", "400"),
            commands.start("replay", "microsoft-sds", "--out", sds, "--rate", "400"),
        ]
        for number in (3, 4):
            time.sleep(1.0)
            last = day(commands, number)
        for process in replays:
            said, log = process.communicate(timeout=120)
            assert process.returncode == 0, said + log
        until(lambda: canvas_is(Path(canvas), last), "the last day in Canvas")

        def set_is_right() -> bool:
            whole = sds_model.taken(Path(sds), to := commands.cwd / "taken")
            return whole and sds_model.rosters(sds_model.load(to)) == truth(last).rosters

        until(set_is_right, "the last day in the set", 90.0)
    (one, other) = commands.run("replay", "list")["replays"]
    assert {one["status"], other["status"]} == {"done"}
    assert one["delivered"]["student"] > 0


def test_the_live_groups_offsets_do_not_move(commands: Commands) -> None:
    canvas = str(commands.cwd / "canvas")
    day(commands, 1)
    commands.run("consume", "canvas", "--out", canvas, "--until-caught-up")
    before = checker.committed(commands.settings, "canvas")
    last = day(commands, 2)
    commands.run("replay", "canvas", "--out", canvas)
    assert checker.committed(commands.settings, "canvas") == before
    commands.run("consume", "canvas", "--out", canvas, "--until-caught-up")
    assert canvas_is(Path(canvas), last)


def test_a_vendor_gets_every_event_of_a_window_again_by_its_own_id(commands: Commands) -> None:
    day(commands, 1)
    since = datetime.now(UTC).isoformat()
    day(commands, 2)
    reported = published(commands, "student")
    wanted = [header(m, "ce_id") for m in reported if header(m, "ce_time") > since]  # type: ignore[operator]
    with Receiver(SECRET) as vendor:
        commands.variables["BUS_PRODUCTS__WEBHOOK__SECRET"] = SECRET
        arguments = ("replay", "webhook", "--url", vendor.url, "--kind", "student")
        ended = commands.run(*arguments, "--from", since)
        assert sorted(event.id for event in vendor.accepted) == sorted(filter(None, wanted))
        assert {event.headers["schoolbus-replay"] for event in vendor.accepted} == {ended["id"]}
        everything = len(vendor.accepted)
        commands.run(*arguments)
        place = {event.id: at for at, event in enumerate(vendor.accepted[everything:])}
        stories: dict[bytes, list[int]] = {}
        for message in reported:
            id_ = header(message, "ce_id") or ""
            stories.setdefault(bytes(message.key() or b""), []).append(place[id_])
        assert all(story == sorted(story) for story in stories.values())


def test_killed_and_started_again_it_goes_on(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A resumed replay into a separate folder ends with the state of an undisturbed one."""
    for number in (1, 2):
        day(commands, number)
    one, other = commands.cwd / "one", commands.cwd / "other"
    commands.run("replay", "canvas", "--into", str(one))
    process = commands.start("replay", "canvas", "--into", str(other), "--rate", "200")
    until(lambda: len(list(other.glob("*.zip"))) >= 2, "two zips")

    def status() -> str:
        return str(commands.run("replay", "list")["replays"][1]["status"])

    assert status() == "running"
    monkeypatch.setattr(presence, "SILENT", timedelta(0))  # always ask Kafka
    until(lambda: status() == "running", "a member of its group")
    process.kill()
    process.communicate()
    until(lambda: status() == "died", "its end")
    (_, entry) = commands.run("replay", "list")["replays"]
    assert commands.run("replay", "show", entry["id"])["status"] == "died"
    ended = commands.run("replay", "resume", entry["id"])
    assert ended["status"] == "done"
    assert ended["share"] == 1.0
    states = [canvas_model.apply(sorted(folder.glob("*.zip"))) for folder in (one, other)]
    assert states[0] == states[1]


def test_partitions_that_run_ahead_are_given_back_and_every_message_comes_once(
    commands: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    """As in a large district, one topic holds more than the replay keeps in memory."""
    monkeypatch.setattr(history, "AHEAD", 200)
    monkeypatch.setattr(history, "AT_ONCE", 50)
    for number in (1, 2):
        day(commands, number)
    window = resolve(commands.settings, ["org", "student", "enrollment"], "beginning", "now")
    read = [m for some in history.read(commands.settings, window, "time") for m in some]
    assert len(read) > 2_000
    for place, stop in window.stop.items():
        there = scan(commands.settings, place.topic, stop={place.partition: stop})
        of_it = [m for m in read if (m.topic(), m.partition()) == place]
        assert [m.offset() for m in of_it] == [m.offset() for m in there]
    times = [m.timestamp()[1] for m in read]
    assert times == sorted(times)


def test_it_is_paused_resumed_and_cancelled(commands: Commands) -> None:
    day(commands, 1)
    into = str(commands.cwd / "shadow")
    with_rate = ("replay", "canvas", "--into", into, "--rate", "200", "--why", "a new account")
    process = commands.start(*with_rate)
    (entry,) = until(lambda: commands.run("replay", "list")["replays"], "the replay")
    commands.run("replay", "pause", entry["id"])
    assert process.wait(60) == 0
    process.communicate()
    shown = commands.run("replay", "show", entry["id"])
    assert (shown["status"], shown["why"]) == ("paused", "a new account")
    assert shown["by"].count("@") == 1
    process = commands.start("replay", "resume", entry["id"])
    until(lambda: commands.run("replay", "show", entry["id"])["status"] == "running", "it goes on")
    process.send_signal(signal.SIGTERM)  # as an orchestrator does; the replay can be resumed
    assert process.wait(60) == 0
    process.communicate()
    assert commands.run("replay", "show", entry["id"])["status"] == "paused"
    commands.run("replay", "cancel", entry["id"])
    refused = commands.run("replay", "resume", entry["id"], status=1)
    assert "cancelled" in refused["error"]


@pytest.mark.parametrize("product", ["canvas", "microsoft-sds"])
def test_a_new_product_gets_active_records_and_no_withdrawn_ones(
    commands: Commands, product: str
) -> None:
    day(commands, 1)
    last = day(commands, 2)
    into = commands.cwd / "new"
    ended = commands.run("replay", product, "--only-current", "--into", str(into))
    assert ended["delivered"]["enrollment"] >= len(truth(last).rosters)
    if product == "canvas":
        (only,) = into.glob("*.zip")
        state = canvas_model.apply([only])
        assert {row["status"] for row in state["users.csv"].values()} == {"active"}
        assert canvas_is(into, last)
    else:
        assert sds_model.rosters(sds_model.load(into)) == truth(last).rosters


def test_of_one_school_or_student_only_what_is_theirs(commands: Commands) -> None:
    last = day(commands, 1)
    somebody = sorted(id_ for id_ in truth(last).people if id_.startswith("student-"))[7]
    school = "school-0000"
    of_one = commands.cwd / "of-one"
    commands.run("replay", "canvas", "--student", somebody, "--into", str(of_one))
    assert {row["user_id"] for row in rows(of_one, "users.csv")} == {somebody}
    assert {row["user_id"] for row in rows(of_one, "enrollments.csv")} == {somebody}
    of_school = commands.cwd / "of-school"
    done = commands.run("replay", "canvas", "--school", school, "--into", str(of_school))
    assert {row["account_id"] for row in rows(of_school, "courses.csv")} == {school}
    assert 0 < done["delivered"]["student"] <= 200


def test_a_dry_run_says_what_it_would_do_and_no_name(commands: Commands) -> None:
    last = day(commands, 1)
    reported = commands.run("replay", "canvas", "--dry-run", "--into", str(commands.cwd / "x"))
    people = truth(last).people
    assert reported["students"] == sum(1 for id_ in people if id_.startswith("student-"))
    assert reported["delivered"]["enrollment"] == reported["read"]["enrollment"]
    assert reported["complete"] is True
    assert not (commands.cwd / "x").exists()
    assert not any(family in str(reported["sample"]) for family in FAMILY)
    assert commands.run("replay", "list")["replays"] == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--from", "last week"), "is not a time"),
        (("--kind", "result"), "takes only"),
        (("--from", "2001-01-01", "--to", "2001-01-02"), "no events in that window"),
    ],
)
def test_a_mistake_is_reported(commands: Commands, arguments: tuple[str, ...], said: str) -> None:
    day(commands, 1)
    refused = commands.run("replay", "canvas", "--into", "x", *arguments, status=1)
    assert said in refused["error"]


def test_a_dry_run_says_what_may_be_compacted_already(commands: Commands) -> None:
    day(commands, 1)
    lag = ConfigEntry("min.compaction.lag.ms", "1", incremental_operation=AlterConfigOpType.SET)
    name = topic(commands.settings, "student")
    resource = ConfigResource(ResourceType.TOPIC, name, incremental_configs=[lag])
    admin = AdminClient(client_settings(commands.settings))
    for future in admin.incremental_alter_configs([resource]).values():
        future.result()

    def reported() -> dict[str, Any] | None:
        found = commands.run("replay", "canvas", "--dry-run", "--into", "x")
        return None if found["complete"] else found

    # A broker learns of a new setting a moment after it was accepted.
    assert until(reported, "the new setting")["compacted"] == ["student"]


def test_a_vendor_that_goes_by_id_and_time_is_never_taken_back(commands: Commands) -> None:
    """A new day is delivered during the replay, and the vendor ends with that day's people."""
    commands.variables["BUS_PRODUCTS__WEBHOOK__SECRET"] = SECRET
    for number in (1, 2):
        day(commands, number)
    with Receiver(SECRET) as vendor:
        consume = ("consume", "webhook", "--url", vendor.url)
        commands.run(*consume, "--until-caught-up")
        before = len(vendor.accepted)
        with commands.running(*consume):
            replay = commands.start("replay", "webhook", "--url", vendor.url, "--rate", "1500")
            until(lambda: len(vendor.accepted) > before + 200, "the replay has begun")
            last = day(commands, 3)
            said, log = replay.communicate(timeout=120)
            assert replay.returncode == 0, said + log

            def reported() -> bool:
                latest = {}
                for event in vendor.accepted:
                    kind, change = event.event["type"].split(".")
                    key = (kind, event.data["sourcedId"])
                    if event.event["timestamp"] >= latest.get(key, ("", ""))[0]:
                        latest[key] = (event.event["timestamp"], change)
                active = {
                    id_
                    for (kind, id_), (_, change) in latest.items()
                    if kind in ("student", "staff") and change != "withdrawn"
                }
                people = {id_ for id_ in truth(last).people if not id_.startswith("guardian-")}
                return active == people

            until(reported, "the third day's people", 120)
