"""After an agreement's end, the vendor receives nothing, and the bus deletes what it has."""

from __future__ import annotations

import sqlite3
from contextlib import closing
from datetime import date, timedelta
from typing import Any

from confluent_kafka.admin import AdminClient
from structlog.testing import capture_logs

from bus import subscribe
from bus.kafka.client import client_settings
from bus.registry import subjects
from bus.settings import Settings
from bus.vendors import applied, disclosures
from bus.vendors.district_view import PROJECTION_TABLES, file_of
from bus.vendors.runner import Runner
from tests.integration.commands import Commands
from tests.integration.test_vendors import SAMPLE, received, write_agreement

TODAY = date.today()
VIEW_TABLES = (*PROJECTION_TABLES, "disclosed")


def project(settings: Settings, day: date) -> list[Any]:
    """Run the projection on a day; return what it logged."""
    with capture_logs() as logs:
        Runner(settings, today=lambda: day).run(until_caught_up=True)
    return logs


def entries(settings: Settings, name: str) -> list[str]:
    """Return what the record of disclosures has of an agreement, other than students."""
    found = disclosures.decoded_entries(disclosures.entries(settings))
    mine = [entry["what"] for entry in found if entry.get("agreement") == name]
    return [what for what in mine if what not in ("entered", "left")]


def left(settings: Settings, name: str) -> list[str]:
    """Return what still exists for a vendor in Kafka, the registry and the file."""
    admin = AdminClient(client_settings(settings))
    groups = admin.list_consumer_groups().result().valid
    names = [*admin.list_topics(timeout=10).topics, *(one.group_id for one in groups)]
    names += subjects.names(settings, settings.topic_prefix)
    own = settings.topic(f"vendor.{name}.")
    with closing(sqlite3.connect(file_of(settings))) as con:
        rows = [
            table
            for table in VIEW_TABLES
            if con.execute(f"SELECT 1 FROM {table} WHERE agreement = ?", [name]).fetchone()
        ]
    return sorted(one for one in names if one.startswith(own)) + rows


def read(settings: Settings, name: str) -> int:
    """Read a vendor's students as its program does."""
    found = subscribe(
        "student", agreement=name, group="app", settings=settings, until_caught_up=True
    )
    return len(list(found))


def test_an_agreement_ends_and_is_deleted_and_attested(commands: Commands) -> None:
    settings = commands.settings
    commands.run("produce", "oneroster-csv", str(SAMPLE.write(commands.cwd / "day-1.zip")))
    folder = commands.cwd / "agreements"
    write_agreement(folder, "whole", identifiers="real")
    write_agreement(folder, "school", 'schools = ["school-0001"]')
    commands.run("vendors", "apply")
    commands.run("vendors", "run", "--until-caught-up")
    assert read(settings, "whole") and read(settings, "school")
    whole, school = left(settings, "whole"), left(settings, "school")
    assert {"cohort", "progress", settings.topic("vendor.whole.app")} <= set(whole)

    # By hand, after a revocation.
    commands.run("vendors", "delete", "school", "--yes", status=1)
    commands.run("vendors", "revoke", "school", "--why", "a breach", "--yes")
    commands.run("vendors", "delete", "school", "--yes", status=1)
    assert set(school) - set(left(settings, "school")) <= set(VIEW_TABLES)
    early = ("vendors", "delete", "school", "--early", "--why", "a breach", "--yes")
    done = commands.run(*early)
    assert left(settings, "school") == [] and left(settings, "whole") == whole
    assert commands.run(*early) == done == commands.run("vendors", "certificate", "school")
    assert len(done["deletion"]["topics"]) == len(done["deletion"]["subjects"]) > 5
    attest = ("vendors", "attest", "school", "--by", "Ann", "--on", TODAY.isoformat())
    assert [commands.run(*attest)["new"] for _ in range(2)] == [True, False]
    assert entries(settings, "school") == ["scope", "revoked", "deleted", "attested"]
    assert commands.run("vendors", "verify")["problems"] == []

    # By itself, on the day.
    until = applied.read(settings)["whole"].agreement.until
    warned = [project(settings, until - timedelta(days=days)) for days in (7, 6, 1)]
    texts = [[(one.get("agreement"), one.get("days")) for one in logs if "soon" in one["event"]]
             for logs in warned]  # fmt: skip
    assert texts == [[("whole", 7)], [], [("whole", 1)]]
    before = received(settings, "whole")
    commands.run("produce", "oneroster-csv", str(SAMPLE.write(commands.cwd / "day-2.zip", day=2)))
    for _ in range(2):
        project(settings, until + timedelta(days=1))
        one = applied.read(settings)["whole"]
        assert (one.state, one.closed) == ("ended", "ended")
    assert received(settings, "whole") == before
    assert entries(settings, "whole") == ["scope", "ended"]
    assert not {"cohort", "progress"} & set(left(settings, "whole"))
    for _ in range(2):
        project(settings, until + timedelta(days=30))
    assert left(settings, "whole") == []
    one = applied.read(settings)["whole"]
    assert one.deleted and one.wrapped_key == b""
    assert entries(settings, "whole") == ["scope", "ended", "deleted"]
    states = {it["name"]: it["state"] for it in commands.run("vendors", "list")["agreements"]}
    assert states == {"school": "revoked", "whole": "ended"}
