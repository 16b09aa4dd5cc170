"""A vendor's webhook gets what its agreement says, and nothing after the agreement ends."""

from __future__ import annotations

import json
import time
from collections.abc import Iterator
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
from tests.integration.commands import Commands, until
from tests.integration.test_vendors import SAMPLE, district, received, write_agreement
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + "c2Nob29sYnVz" * 3
CONSUME = ("consume", "webhook", "--agreement", "app")


@pytest.fixture
def vendor(tmp_path: Path) -> Iterator[Receiver]:
    """The vendor's endpoint, with TLS."""
    certificates.ensure(tmp_path / "tls", [])
    with Receiver(SECRET, certificate=tmp_path / "tls" / certificates.SERVER) as running:
        yield running


@pytest.fixture
def commands_(commands: Commands, vendor: Receiver, tmp_path: Path) -> Commands:
    """A small district, and an agreement whose only way out is the webhook."""
    commands.variables |= {
        "BUS_VENDORS__WEBHOOK_SECRETS": json.dumps({"app": SECRET}),
        "BUS_VENDORS__LOOPBACK_ENDPOINTS": "true",
        "SSL_CERT_FILE": str(tmp_path / "tls" / certificates.CA),
    }
    commands.run("produce", "oneroster-csv", str(SAMPLE.write(commands.cwd / "day-1.zip")))
    folder = commands.cwd / "agreements"
    write_agreement(folder, "app")
    file = folder / "app.toml"
    file.write_text(f'ways = []\n{file.read_text()}\n[webhook]\nurl = "{vendor.url}"\n')
    return commands


def states(vendor: Receiver) -> dict[tuple[str, str], dict[str, Any]]:
    """Return the last state of each record that the vendor has."""
    found: dict[tuple[str, str], dict[str, Any]] = {}
    for one in vendor.accepted:
        kind, _, change = one.event["type"].partition(".")
        key = kind, one.data["sourcedId"]
        if change == "deleted":
            assert one.data == {"sourcedId": one.data["sourcedId"]}
            found.pop(key, None)
        else:
            found[key] = one.data
    return found


def test_a_vendor_gets_the_agreed_fields_a_deletion_and_nothing_after_a_revocation(
    commands_: Commands, vendor: Receiver
) -> None:
    commands, settings = commands_, commands_.settings
    assert commands.run("vendors", "apply")["vendors"]["app"]["topics"] == {}
    commands.run("vendors", "run", "--until-caught-up")
    deal = applied.read(settings)["app"]
    scope = compile_scope(deal.agreement)
    vendor_id = Pseudonyms(unwrapped(deal.wrapped_key, master_key.read(settings))).pseudonym

    def has_all() -> bool:
        shared = {
            (kind, id_): {
                name: value
                for name, value in to_json(
                    kind, {**dict.fromkeys(KINDS[kind].fields), **record}
                ).items()
                if name in scope.kinds[kind].fields
            }
            for (kind, id_), record in received(settings, "app").items()
        }
        return bool(shared) and states(vendor) == shared

    # What it gets: agreed fields alone, with pseudonyms.
    consumer = commands.start(*CONSUME)
    try:
        until(has_all, "the vendor has what its topics hold")
        real = {
            id_ for kind, id_ in district(settings).records if kind in ("student", "enrollment")
        }
        bodies = b"\n".join(one.body for one in vendor.received)
        assert not [id_ for id_ in real if id_.encode() in bodies]
        names = {"type", "timestamp", "data"}
        assert all(one.verified and one.event.keys() == names for one in vendor.received)
        groups = reading_groups(settings)
        prefix = settings.topic_prefix
        assert f"{prefix}.way.app.webhook" in groups
        assert not [group for group in groups if group.startswith(f"{prefix}.vendor.")]

        # An opt-out: a deletion, without a reason.
        student = next(
            id_
            for kind, id_ in district(settings).records
            if kind == "student" and ("student", vendor_id(id_)) in states(vendor)
        )
        runner = commands.start("vendors", "run")
        try:
            add = ("optouts", "add", student, "--scope", "protected", "--decided-by", "parent")
            began = time.monotonic()
            commands.run(*add)
            until(
                lambda: ("student", vendor_id(student)) not in states(vendor),
                "the deletion after an opt-out",
            )
            print(f"opt-out to deletion: {time.monotonic() - began:.2f} s")
            until(has_all, "the deletions of all records of the student")

            # A revocation, while the endpoint is down and deliveries are tried again.
            refused: list[Received] = []

            def down(one: Received) -> int:
                refused.append(one)
                return 503

            vendor.answer = down
            commands.run(
                "produce", "oneroster-csv", str(SAMPLE.write(commands.cwd / "day-2.zip", day=2))
            )
            until(lambda: len(refused) > 3, "deliveries are tried again")
            began, at = time.monotonic(), time.time()
            commands.run("vendors", "revoke", "app", "--why", "the contract ended", "--yes")
            log = "".join(consumer.communicate(timeout=30))
            seconds = time.monotonic() - began
            print(f"revocation to the consumer's end: {seconds:.2f} s")
            assert consumer.returncode == 1
            assert "the agreement app was revoked; nothing more is sent" in log
            assert seconds < 5
            vendor.answer = lambda _: 204
            before = states(vendor)
            commands.run(
                "produce", "oneroster-csv", str(SAMPLE.write(commands.cwd / "day-3.zip", day=3))
            )
        finally:
            runner.terminate()
            runner.communicate(timeout=60)
        again = commands.ended(*CONSUME, process=True)
        assert again.returncode == 1 and "was revoked" in again.stdout
        assert states(vendor) == before
        assert all(one.at < at + 5 for one in vendor.received)
    finally:
        if consumer.poll() is None:
            consumer.kill()
            consumer.communicate()
