"""Dead letters: list them, retry them after a fix, or discard them."""

from __future__ import annotations

import json

import pytest

from bus.demo.sample import FAMILY, District
from bus.kafka import topics
from bus.kafka.reader import scan
from tests.integration.commands import Commands
from tests.integration.test_replay import SECRET
from tests.webhook_receiver import Received, Receiver, Reply

DISTRICT = District(seed=4, students=20)


@pytest.fixture
def vendor(commands: Commands) -> Receiver:
    """A vendor whose program refuses the first three students."""
    receiver = Receiver(SECRET)
    commands.variables["BUS_PRODUCTS__WEBHOOK__SECRET"] = SECRET

    def answer(event: Received) -> Reply:
        refused = ("student-0000000", "student-0000001", "student-0000002")
        return (
            422
            if event.event["type"].startswith("student.") and event.data["sourcedId"] in refused
            else 204
        )

    receiver.answer = answer
    return receiver


def dead_letters(commands: Commands, *options: str) -> list[dict[str, str]]:
    found: list[dict[str, str]] = commands.run("deadletters", "list", "webhook", *options)[
        "deadLetters"
    ]
    return found


def test_they_are_listed_shown_retried_and_discarded(commands: Commands, vendor: Receiver) -> None:
    with vendor:
        extract = DISTRICT.write(commands.cwd / "1.zip", 1)
        commands.run("produce", "oneroster-csv", str(extract))
        commands.run("consume", "webhook", "--url", vendor.url, "--until-caught-up")
        found = dead_letters(commands)
        assert len(found) == 3
        assert dead_letters(commands, "--kind", "enrollment") == []
        assert len(dead_letters(commands, "--reason", "status 422")) == 3
        assert dead_letters(commands, "--until", "2001-01-01") == []
        summary = commands.run("deadletters", "list", "webhook")["reasons"]
        assert list(summary.values()) == [3]

        place = found[0]["place"]
        shown = commands.run("deadletters", "show", "webhook", place)
        assert shown["record"]["sourcedId"] == found[0]["id"]
        assert shown["record"]["familyName"].startswith("text of ")
        refused = commands.run("deadletters", "show", "webhook", place, "--unmasked", status=1)
        assert "--why" in refused["error"]
        shown = commands.run(
            "deadletters", "show", "webhook", place, "--unmasked", "--why", "ticket 12"
        )
        assert shown["record"]["familyName"] in FAMILY
        (look,) = scan(commands.settings, topics.audit(commands.settings))
        assert json.loads(look.value() or b"")["why"] == "ticket 12"

        commands.run("deadletters", "discard", "webhook", place, "--why", "left in June")
        assert len(dead_letters(commands)) == 2
        assert dead_letters(commands, "--all")[-1]["state"] == "discarded"

        still = commands.run(
            "deadletters", "retry", "webhook", "--all", "--url", vendor.url, status=1
        )
        assert (still["retried"], still["failed"]) == (0, 2)
        assert len(dead_letters(commands)) == 2
        vendor.answer = lambda _: 204
        mended = commands.run("deadletters", "retry", "webhook", "--all", "--url", vendor.url)
        assert (mended["retried"], mended["failed"]) == (2, 0)
        assert dead_letters(commands) == []


def test_a_retry_undoes_nothing_that_came_after(commands: Commands, vendor: Receiver) -> None:
    """A retry delivers the second day's state, not the one that failed."""
    with vendor:
        for day in (1, 2):
            path = District(seed=4, students=20, change=1.0).write(commands.cwd / f"{day}.zip", day)
            commands.run("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
            commands.run("consume", "webhook", "--url", vendor.url, "--until-caught-up")
        vendor.answer = lambda _: 204
        reported = len(vendor.accepted)
        commands.run("deadletters", "retry", "webhook", "--all", "--url", vendor.url)
        again = {event.data["sourcedId"]: event for event in vendor.accepted[reported:]}
        last = {}
        for message in scan(commands.settings, topics.topic(commands.settings, "student")):
            last[(message.key() or b"").decode()] = dict(message.headers() or ())["ce_id"]  # type: ignore[arg-type]
        assert again
        for id_, event in again.items():
            assert event.id == last[id_].decode()
    assert dead_letters(commands) == []


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("retry", "canvas"), "no dead letters are selected"),
        (("discard", "canvas", "--all"), "--why"),
        (("show", "canvas", "schoolbus.student/0/7"), "no dead letter"),
        (("list", "canvas", "--since", "then"), "not a time"),
    ],
)
def test_a_mistake_is_reported(commands: Commands, arguments: tuple[str, ...], said: str) -> None:
    refused = commands.run("deadletters", *arguments, status=1)
    assert said in refused["error"]
