"""Vendors on a secure bus read their own data with only their credentials, and nothing else.

This module checks the page docs/vendors-tested.md. UPDATE_GOLDEN=1 writes the page again.
"""

from __future__ import annotations

import json
import os
import time
from contextlib import suppress
from datetime import UTC, date, datetime, timedelta
from pathlib import Path
from typing import Any

import httpx2
import pytest
from confluent_kafka import Consumer, Producer
from confluent_kafka.admin import AdminClient

from bus import local
from bus.errors import RetryLater
from bus.kafka import access
from bus.kafka.client import client_settings
from bus.local import quotas
from bus.vendors import applied, expiry
from bus.vendors.disclosures import DisclosureWriter
from tests import golden_file
from tests.integration import vendor_api_keys
from tests.integration.commands import until
from tests.integration.secure_vendors import (
    NAMES,
    PREFIX,
    STUDENTS,
    Wire,
    logs_in,
    options,
    subjects_seen,
    tls_context,
    wire,
)
from tests.integration.vendor_api_keys import Listener, Target, Vendor
from tests.integration.vendor_probes import (
    DISTRICT,
    EMPTY,
    GRANTED,
    PATHS,
    PROBES,
    Caller,
    ask,
    page,
)
from tests.shapes import shape

pytestmark = pytest.mark.embedded
__all__ = ["wire"]

SOON = 5.0
"""How many seconds the vendor still tries to read after its revocation."""
TABLE = Path(__file__).parents[2] / "docs" / "vendors-tested.md"


def test_apply_gives_what_a_script_needs_and_keeps_it(wire: Wire) -> None:
    math = wire.vendors["math"]
    assert math["username"] == "vendor-math-a"
    assert math["bootstrap"] == local.reach(wire.settings.home).vendors
    assert math["registry"] == wire.gate and wire.gate.startswith("https://")
    assert Path(math["credentials"]) == wire.folder / "math.env"
    assert Path(math["ca"]) == wire.folder / "ca.pem"
    assert wire.folder.stat().st_mode & 0o777 == 0o700
    assert {path.stat().st_mode & 0o777 for path in wire.folder.iterdir()} == {0o600}
    before = {path.name: path.read_bytes() for path in wire.folder.iterdir()}
    again = wire.commands.run("vendors", "apply", "--credentials", "secrets")
    assert again["vendors"] == wire.vendors
    assert {path.name: path.read_bytes() for path in wire.folder.iterdir()} == before
    assert quotas.quotas_of(wire.settings.home, "vendor-math-a") == {
        "producer_byte_rate": 100_000,
        "consumer_byte_rate": 10_000_000,
        "request_percentage": 25,
    }


def test_each_vendor_reads_its_own_topics_with_its_credentials_alone(wire: Wire) -> None:
    read = {}
    for name in ("math", "library"):
        done = wire.program(name)
        assert done.returncode == 0, done.stderr
        read[name] = set(json.loads(done.stdout))
        assert len(read[name]) >= STUDENTS * 0.9
    assert not read["math"] & read["library"], "ids of its own"
    other = wire.program("math", topic_of="library")
    assert other.returncode == 1
    assert "does not let agreement library read this" in other.stderr


def test_rotation(wire: Wire) -> None:
    old = wire.file("rotated")
    made = wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets")
    new = wire.file("rotated")
    assert (old["BUS_KAFKA__SASL_USERNAME"], new["BUS_KAFKA__SASL_USERNAME"]) == (
        "vendor-rotated-a",
        "vendor-rotated-b",
    )
    assert made["username"] == "vendor-rotated-b"
    lines = [f"json-rotate bus vendors rotate {line}" for line in shape(made)]
    golden_file.check("public-surface.txt", "json-rotate", lines)
    for one in (old, new):
        until(lambda one=one: logs_in(options(one, wire.folder)), "both passwords count", 15)
        assert subjects_seen(wire, one) == 200
    twice = wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets", status=1)
    assert "not finished" in twice["error"]
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    until(lambda: not logs_in(options(old, wire.folder)), "the old password counts no more", 15)
    assert subjects_seen(wire, old) == 401
    assert wire.program("rotated").returncode == 0
    # Rotate back to the first user, which was denied everything.
    wire.commands.run("vendors", "rotate", "rotated", "--credentials", "secrets")
    wire.commands.run("vendors", "rotate", "rotated", "--finish", "--credentials", "secrets")
    assert wire.program("rotated").returncode == 0
    (wire.folder / "old.env").touch(mode=0o600)
    (wire.folder / "old.env").write_text("\n".join(f"{k}={v}" for k, v in old.items()))


def test_a_revoked_vendor_gets_nothing_more(wire: Wire) -> None:
    topic = wire.vendors["revoked"]["topics"]["student"]
    file = wire.file("revoked")
    errors: list[int] = []
    consumer = Consumer(
        wire.client("revoked")
        | {
            "group.id": f"{PREFIX}.vendor.revoked.app",
            "auto.offset.reset": "earliest",
            "error_cb": lambda error: errors.append(error.code()),
        }
    )
    consumer.subscribe([topic])
    until(lambda: _record(consumer), "the consumer reads")
    while _record(consumer, 1.0):
        pass
    own = Producer(client_settings(wire.settings))

    def publish() -> None:  # as if the projection went on
        for part in range(wire.settings.kafka.partitions):
            own.produce(topic, b"x", b"late", partition=part)
        assert own.flush(10) == 0

    publish()
    assert until(lambda: _record(consumer), "it is open")
    revoke = ("vendors", "revoke", "revoked", "--why", "a breach", "--yes")
    began = time.time()
    command = wire.commands.start(*revoke)
    last = returned = 0.0
    while not returned or time.time() < returned + SOON:
        publish()
        while (message := consumer.poll(0.1)) is not None:
            if message.error() is None:
                last = message.timestamp()[1] / 1000  # when it was written
        if not returned and command.poll() is not None:
            returned = time.time()
    consumer.close()
    assert command.returncode == 0, command.communicate()
    command.communicate()
    print(f"last record after {last - began:.1f} s; the command took {returned - began:.1f} s")
    assert last < returned, "nothing is readable once the command has ended"
    assert not logs_in(options(file, wire.folder))
    assert subjects_seen(wire, file) == 401
    users = access.users(wire.settings)
    assert not users & {"vendor-revoked-a", "vendor-revoked-b"} and "vendor-math-a" in users
    # Once more, and an agreement that ended.
    wire.commands.run("vendors", "revoke", "revoked", "--why", "a breach", "--yes")
    after = applied.read(wire.settings)["ended"].agreement.until + timedelta(days=1)
    with DisclosureWriter(wire.settings) as record:
        expiry.settle(wire.settings, "ended", after, datetime.now(UTC), record)
    assert not logs_in(wire.client("ended"))
    assert wire.program("ended").returncode == 1


def _record(consumer: Consumer, seconds: float = 0.5) -> bool:
    message = consumer.poll(seconds)
    return message is not None and message.error() is None


def test_no_caller_sees_more_than_its_own(wire: Wire) -> None:
    """Runs after the other tests of the module, because their vendors send requests here too."""
    rows: dict[str, dict[str, str]] = {}
    wrong: list[tuple[str, str, str]] = []
    callers = {
        who: Caller(who, other, wire.client(who), AdminClient(wire.client(who)))
        for who, other in (("math", "library"), ("library", "math"), ("rotated", "math"))
    }
    shut = {
        "ended": wire.client("ended"),
        "revoked": wire.client("revoked"),
        "old password": options(wire.file("old"), wire.folder),
        "nobody": wire.client("math") | {"sasl.password": "guess"},
    }
    for name, client in shut.items():
        assert not logs_in(client), name
    for what, probe in PROBES.items():
        rows[what] = {}
        for who, caller in callers.items():
            answer, said = ask(probe, caller)
            rows[what][who] = answer
            others = {f".{one}." for one in NAMES if one != caller.own}
            others |= {"disclosures", DISTRICT, "User:", "vendor-"}
            assert not [one for one in others if one in said], (what, who, said)
            good = "FAILED" not in answer and not answer.startswith("_")
            refused = answer.endswith("_AUTHORIZATION_FAILED") or answer == EMPTY.get(what)
            if not (good if what in GRANTED else refused):
                wrong.append((what, who, answer))
        rows[what] |= dict.fromkeys(shut, "login refused")
    with httpx2.Client(verify=tls_context(wire), trust_env=False) as client:
        tokens = {who: wire.file(who) for who in ("math", "library", "rotated", "ended", "revoked")}
        tokens |= {"old password": wire.file("old"), "nobody": {}}
        for what, path in PATHS.items():
            rows[what] = {}
            for who, file in tokens.items():
                own = who if who in callers else "math"
                url = wire.gate + path.format(
                    own=f"{PREFIX}.vendor.{own}.student",
                    other=f"{PREFIX}.vendor.{callers[own].other}.student",
                )
                token = file.get("BUS_REGISTRY__BEARER_TOKEN", "guess")
                found = client.get(url, headers={"Authorization": f"Bearer {token}"})
                rows[what][who] = str(found.status_code)
                if who in callers:
                    others = {f".{one}." for one in NAMES if one != own} | {DISTRICT}
                    assert not [one for one in others if one in found.text], (what, who)
                    granted = what in ("GET /subjects", "GET its own schema")
                    assert found.status_code == (200 if granted else 404), (what, who)
                else:
                    assert found.status_code == 401, (what, who)
        rows["POST /subjects/…/versions"] = {
            who: str(
                client.post(
                    f"{wire.gate}/subjects/x/versions",
                    json={"schema": '"string"'},
                    headers={
                        "Authorization": f"Bearer {f.get('BUS_REGISTRY__BEARER_TOKEN', 'guess')}"
                    },
                ).status_code
            )
            for who, f in tokens.items()
        }
    assert {rows["DescribeCluster: the allowed operations"][who] for who in callers} == {
        "0 operations"
    }
    for who in callers:  # hundreds of requests, which the quota would delay
        access.remove_quota(wire.settings, f"vendor-{who}-a")
    section, problems = vendor_api_keys.ask_everything(*_identities(wire, callers, shut))
    wire.commands.run("vendors", "apply", "--credentials", "secrets")  # it sets them again
    wrong += [("API key", "", problem) for problem in problems]
    text = page(rows, section)
    print(text)
    if os.environ.get("UPDATE_GOLDEN"):
        TABLE.write_text(text)
    assert not wrong, wrong
    assert TABLE.read_text() == text


def test_after_the_agreed_days_users_rules_and_quotas_are_deleted(wire: Wire) -> None:
    """Runs after `test_no_caller_sees_more_than_its_own`, which needs these vendors."""

    def left(name: str) -> tuple[set[str], int, dict[str, float]]:
        own = f"vendor-{name}-a", f"vendor-{name}-b"
        rules = sum(len(access.rules(wire.settings, user)) for user in own)
        limits: dict[str, float] = {}
        for user in own:
            limits |= quotas.quotas_of(wire.settings.home, user)
        return access.users(wire.settings) & set(own), rules, limits

    before = left("math")
    assert before[0] == {"vendor-math-a"} and before[1] and before[2]
    for name in ("revoked", "ended"):
        users, rules, limits = left(name)
        assert not users and rules and limits, "the end closes, but deletes only users"
        one = applied.read(wire.settings)[name]
        for days, complete in ((1, False), (0, True)):

            def settled(
                on: date = one.deletion_day - timedelta(days=days), name: str = name
            ) -> bool:
                with DisclosureWriter(wire.settings) as record, suppress(RetryLater):
                    expiry.settle(wire.settings, name, on, datetime.now(UTC), record)
                    return True
                return False

            until(settled, "the end is settled")
            assert (left(name) == (set(), 0, {})) == complete, (name, days)
        stored = applied.read(wire.settings)[name]
        assert stored.deleted and stored.wrapped_key == b""
        assert stored.certificate is not None and stored.certificate.deleted.users
        names = AdminClient(client_settings(wire.settings)).list_topics(timeout=10).topics
        assert not [topic for topic in names if topic.startswith(f"{PREFIX}.vendor.{name}.")]
    assert left("math") == before
    assert wire.program("math").returncode == 0


FIELDS = """
import json
from bus import subscribe
found = subscribe("student", agreement="{name}", group="fields", until_caught_up=True)
print(json.dumps(sorted({{name for event in found for name in event.record or ()}})))
"""


def test_a_narrower_agreement_closes_the_access_until_its_topics_are_written(wire: Wire) -> None:
    """Runs last, because it ends the projection and deletes the first messages of a vendor."""
    file = wire.commands.cwd / "agreements" / "library.toml"
    before = wire.program("library", text=FIELDS)
    assert {"grades", "givenName"} <= set(json.loads(before.stdout)), before.stderr
    wire.projection.terminate()
    wire.projection.communicate(timeout=60)
    text = file.read_text()
    assert '"Student Name", ' in text
    text = text.replace('"Student Name", ', "").partition("[share.why]")
    file.write_text(text[0] + text[2].partition("\n\n")[2])
    wire.commands.run("vendors", "apply", "--credentials", "secrets")
    assert wire.program("math", text=FIELDS).returncode == 0, "another vendor"

    def refused() -> bool:
        done = wire.program("library", text=FIELDS)
        return done.returncode == 1 and "start the reader again after some minutes" in done.stderr

    assert refused()
    wire.commands.run("vendors", "apply", "--credentials", "secrets")
    assert refused()
    wire.commands.run("vendors", "run", "--until-caught-up")
    after = wire.program("library", text=FIELDS.replace("fields", "anew"))
    fields = set(json.loads(after.stdout))
    assert "grades" in fields and not fields & {"givenName", "familyName"}, after.stderr
    assert len(json.loads(wire.program("library").stdout)) >= STUDENTS * 0.9, "all anew"


def _identities(
    wire: Wire, callers: dict[str, Caller], shut: dict[str, dict[str, Any]]
) -> tuple[Listener, dict[str, Vendor], dict[str, tuple[str, str] | None]]:
    """Return the listener, who has an agreement, and who does not."""

    def login(client: dict[str, Any]) -> tuple[str, str]:
        return client["sasl.username"], client["sasl.password"]

    def target(name: str) -> Target:
        own = f"{PREFIX}.vendor.{name}"
        return Target(f"{own}.student", f"{own}.app", f"vendor-{name}-a")

    vendors = {}
    for who, caller in callers.items():
        others = {text for one in NAMES if one != who for text in (f".{one}.", f"vendor-{one}-")}
        foreign = frozenset(others | {f"{PREFIX}.disclosures", f"{PREFIX}.vendors", DISTRICT})
        vendors[who] = Vendor(login(caller.options), target(who), target(caller.other), foreign)
    strangers: dict[str, tuple[str, str] | None] = {
        who: login(client) for who, client in shut.items() if who != "nobody"
    }
    listener = Listener(callers["math"].options["bootstrap.servers"], wire.folder / "ca.pem")
    return listener, vendors, {**strangers, "nobody": None}
