"""A vendor's webhook gets what its agreement says, and nothing after the agreement ends."""

from __future__ import annotations

import json
import subprocess
import time
from collections.abc import Iterator
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import pytest

from bus.kafka.overview import reading_groups
from bus.local import certificates
from bus.standard.json import to_json
from bus.standard.kinds import KINDS
from bus.vendors import applied, master_key
from bus.vendors.pseudonyms import Pseudonyms, unwrapped
from bus.vendors.scope import compile_scope
from tests.integration import commands as running
from tests.integration.commands import Commands
from tests.integration.test_vendors import SAMPLE, district, received, write_agreement
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
CONSUME = ("consume", "webhook", "--agreement", "app")
UNDER = ("webhook", "--agreement", "app")
State = dict[tuple[str, str], dict[str, Any]]
until = partial(running.until, seconds=180.0)
"""Three processes of the bus run at the same time, which takes longer on a busy machine."""


@dataclass
class District:
    """A small district, and an agreement whose only way out is the webhook."""

    commands: Commands
    vendor: Receiver

    @property
    def agreement(self) -> Path:
        return self.commands.cwd / "agreements" / "app.toml"

    def produce(self, day: int) -> None:
        path = SAMPLE.write(self.commands.cwd / f"day-{day}.zip", day=day)
        self.commands.run("produce", "oneroster-csv", str(path))

    def vendor_id(self, id_: str) -> str:
        deal = applied.read(self.commands.settings)["app"]
        key = unwrapped(deal.wrapped_key, master_key.read(self.commands.settings))
        return Pseudonyms(key).pseudonym(id_)

    def real_students(self) -> list[str]:
        records = district(self.commands.settings).records
        return [id_ for kind, id_ in records if kind == "student"]

    def has(self) -> State:
        """Return the last state of each record that the vendor has."""
        found: State = {}
        for one in self.vendor.accepted:
            kind, _, change = one.event["type"].partition(".")
            key = kind, one.data["sourcedId"]
            if change == "deleted":
                assert one.data == {"sourcedId": one.data["sourcedId"]}
                found.pop(key, None)
            else:
                found[key] = one.data
        return found

    def shares(self) -> State:
        """Return what the agreement's topics hold."""
        scope = compile_scope(applied.read(self.commands.settings)["app"].agreement)
        return {
            (kind, id_): {
                name: value
                for name, value in to_json(
                    kind, {**dict.fromkeys(KINDS[kind].fields), **record}
                ).items()
                if name in scope.kinds[kind].fields
            }
            for (kind, id_), record in received(self.commands.settings, "app").items()
        }

    def changed(self) -> bool:
        names = any(
            "givenName" in one for (kind, _), one in self.has().items() if kind == "student"
        )
        return not names and self.up_to_date()

    def up_to_date(self) -> bool:
        shared = self.shares()
        return ("student" in {kind for kind, _ in shared}) and self.has() == shared


@pytest.fixture
def there(commands: Commands, tmp_path: Path) -> Iterator[District]:
    certificates.ensure(tmp_path / "tls", [])
    with Receiver(SECRET, certificate=tmp_path / "tls" / certificates.SERVER) as vendor:
        commands.variables |= {
            "BUS_VENDORS__WEBHOOK_SECRETS": json.dumps({"app": SECRET}),
            "BUS_VENDORS__LOOPBACK_ENDPOINTS": "true",
            "SSL_CERT_FILE": str(tmp_path / "tls" / certificates.CA),
        }
        found = District(commands, vendor)
        found.produce(1)
        write_agreement(found.agreement.parent, "app")
        text = found.agreement.read_text()
        found.agreement.write_text(f'ways = []\n{text}\n[webhook]\nurl = "{vendor.url}"\n')
        yield found


@pytest.fixture
def ended() -> Iterator[list[subprocess.Popen[str]]]:
    """Processes that end with the test."""
    started: list[subprocess.Popen[str]] = []
    yield started
    for process in started:
        if process.poll() is None:
            process.kill()
        process.communicate()


def test_a_vendor_gets_what_its_agreement_says_until_it_is_revoked(
    there: District, ended: list[subprocess.Popen[str]]
) -> None:
    commands, settings, vendor = there.commands, there.commands.settings, there.vendor
    assert commands.run("vendors", "apply")["vendors"]["app"]["topics"] == {}

    # It refuses one student's record, which becomes a dead letter.
    refused: list[str] = []

    def refuse_one(one: Received) -> int:
        if one.event["type"] == "student.updated" and one.data["sourcedId"] in (
            refused or [one.data["sourcedId"]]
        ):
            refused.append(one.data["sourcedId"])
            return 422
        return 204

    vendor.answer = refuse_one
    ended.append(commands.start("vendors", "run"))
    ended.append(consumer := commands.start(*CONSUME))
    found = until(
        lambda: commands.run("deadletters", "list", *UNDER)["deadLetters"], "a dead letter"
    )
    assert [one["id"] for one in found] == refused[:1]
    vendor.answer = lambda _: 204
    until(lambda: len(there.shares()) == len(there.has()) + 1 > 100, "the rest arrives")
    place = found[0]["place"]
    shown = commands.run("deadletters", "show", "webhook", place, *UNDER[1:])
    assert shown["record"]["sourcedId"] == refused[0] and "text of" in shown["record"]["givenName"]
    assert commands.run("deadletters", "retry", *UNDER, "--all")["retried"] == 1
    until(there.up_to_date, "the vendor has what its topics hold")

    # It has agreed fields alone, with pseudonyms. No name of a group or topic is under its prefix.
    bodies = b"\n".join(one.body for one in vendor.received)
    assert not [id_ for id_ in there.real_students() if id_.encode() in bodies]
    assert all(
        one.verified and one.event.keys() == {"type", "timestamp", "data"}
        for one in vendor.received
    )
    prefix, groups = settings.topic_prefix, reading_groups(settings)
    assert f"{prefix}.way.app.webhook" in groups
    assert not [group for group in groups if group.startswith(f"{prefix}.vendor.")]

    # An opt-out: a deletion, without a reason.
    student = next(
        id_ for id_ in there.real_students() if ("student", there.vendor_id(id_)) in there.has()
    )
    began = time.monotonic()
    commands.run("optouts", "add", student, "--scope", "protected", "--decided-by", "parent")
    entered = time.monotonic() - began
    pseudonym = there.vendor_id(student)
    until(lambda: ("student", pseudonym) not in there.has(), "the deletion after an opt-out")
    print(
        f"opt-out to deletion: {time.monotonic() - began:.2f} s, of which `bus optouts add` took "
        f"{entered:.2f} s"
    )
    until(there.up_to_date, "the deletions of all records of the student")

    # A narrower agreement: the consumer starts again under it by itself.
    text = there.agreement.read_text().replace('"Student Name", ', "")
    text = text.replace('roles = ["teacher", "guardian"]', "roles = []")
    there.agreement.write_text(
        text.split("[share.why]")[0] + "[students]" + text.split("[students]")[1]
    )
    commands.run("vendors", "apply")
    until(there.changed, "the vendor has what the changed agreement shares")
    under_the_change = len(vendor.received)
    assert consumer.poll() is None

    # A revocation, while the endpoint is down and deliveries are tried again.
    down: list[Received] = []
    vendor.answer = lambda one: down.append(one) or 503  # type: ignore[func-returns-value]
    there.produce(2)
    until(lambda: len(down) > 3, "deliveries are tried again")
    commands.run("vendors", "revoke", "app", "--why", "the contract ended", "--yes")
    began, at = time.monotonic(), time.time()
    log = "".join(consumer.communicate(timeout=30))
    seconds = time.monotonic() - began
    last = max(one.at for one in vendor.received) - at
    print(f"revocation to the last request: {last:.2f} s, to the consumer's end: {seconds:.2f} s")
    assert consumer.returncode == 1
    assert "the agreement app was revoked; nothing more is sent" in log
    late = vendor.received[under_the_change:]
    assert late and not any(
        "givenName" in one.data for one in late if "student." in one.event["type"]
    )
    vendor.answer = lambda _: 204
    before = there.has()
    there.produce(3)
    again = commands.ended(*CONSUME, process=True)
    assert again.returncode == 1 and "was revoked" in again.stdout
    retried = commands.ended("deadletters", "retry", *UNDER, "--all", process=True)
    assert retried.returncode == 0  # there is none any more
    assert there.has() == before
    assert all(one.at < at + 5 for one in vendor.received)
