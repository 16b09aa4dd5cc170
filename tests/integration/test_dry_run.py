"""`bus produce … --dry-run` reports what a run would do, and changes nothing."""

from __future__ import annotations

import hashlib
import json
import signal
import time
from pathlib import Path
from typing import Any

from confluent_kafka.admin import AdminClient  # type: ignore[attr-defined]

from bus.ingest import pipeline
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader
from bus.settings import Settings
from tests.integration.commands import Commands, until
from tests.integration.test_main_job import DAY_1, DAY_2, take
from tests.integration.test_sources import System


def topics_as_they_are(settings: Settings) -> dict[Any, int]:
    """Return the end of each partition of the bus's topics."""
    there = AdminClient(client_settings(settings)).list_topics(timeout=10).topics
    ours = [name for name in there if name.startswith(f"{settings.topic_prefix}.")]
    with Reader(settings, "{}") as reader:
        return dict(reader.ends(ours))


def files(settings: Settings) -> dict[str, str]:
    """Return the digest of each file in the home, except empty locks."""
    return {
        str(path.relative_to(settings.home)): hashlib.sha256(path.read_bytes()).hexdigest()
        for folder in ("published", "work")
        for path in sorted((settings.home / folder / settings.topic_prefix).rglob("*"))
        if path.is_file() and path.suffix != ".lock"
    }


def dry(commands: Commands, *arguments: str) -> dict[str, Any]:
    return commands.run("produce", "oneroster-csv", *arguments, "--dry-run")


def test_it_says_what_the_run_then_does_and_touches_nothing(commands: Commands) -> None:
    settings = commands.settings
    first = dry(commands, str(DAY_1), "--differences", "2")
    assert topics_as_they_are(settings) == {}, "not even the topics are made"
    assert files(settings) == {}
    assert first["dryRun"] and first["guard"] == ""
    assert first["records"] == take(commands, DAY_1)

    ends, lies = topics_as_they_are(settings), files(settings)
    second = dry(commands, str(DAY_2), "--differences", "1000")
    assert topics_as_they_are(settings) == ends
    assert files(settings) == lies
    found = second["differences"]
    by_change = {
        change: {one["id"] for one in found if (one["kind"], one["change"]) == ("student", change)}
        for change in ("created", "updated", "withdrawn")
    }
    assert {change: len(ids) for change, ids in by_change.items()} == {
        "created": 10,
        "updated": 14,
        "withdrawn": 12,
    }
    for one in found:
        assert (one["change"] == "updated") == bool(one["fields"])
    names = {name for one in found for name in one["fields"]}
    assert "familyName" in names or "givenName" in names
    masked = [one["fields"][n] for one in found for n in ("familyName",) if n in one["fields"]]
    assert all(value["after"].startswith("text of ") for value in masked)
    assert second["records"] == take(commands, DAY_2)
    assert not any(one for one in dry(commands, str(DAY_2), "--differences", "9")["differences"])


def test_the_guard_and_the_quarantine_are_reported(commands: Commands, tmp_path: Path) -> None:
    take(commands, DAY_1)
    small = tmp_path / "small"
    commands.run("sample", str(small), "--students", "60")
    with (small / "orgs.csv").open("r+", encoding="utf-8") as orgs:
        nameless = "," * orgs.readline().count(",")
        orgs.seek(0, 2)
        orgs.write(f"x1{nameless}\nx2{nameless}\n")
    before = commands.run("quarantine", "list")
    found = dry(commands, str(small))
    assert "would withdraw" in found["guard"] and "student" in found["guard"]
    (group,) = [one for one in found["groups"] if one["code"] == "missing-value" and one["fatal"]]
    assert (group["count"], group["file"], group["column"]) == (2, "orgs.csv", "name")
    assert commands.run("quarantine", "list") == before
    assert dry(commands, str(small), "--allow-mass-withdrawal")["guard"] == ""
    refused = commands.run("produce", "oneroster-csv", str(small), "--dry-run", "--watch", status=1)
    assert "--watch" in refused["error"]


def test_a_poll_is_looked_at_and_its_position_stays(commands: Commands) -> None:
    system, settings = System(), commands.settings
    system.log += [("o1", "North"), ("o2", "South")]
    for _ in range(2):
        found = pipeline.dry_run(settings, "oursis", system.poll, polled=True, most=5)
        assert found.report.records["org"]["created"] == 2
        assert [one.id for one in found.differences] == ["o1", "o2"]
    assert topics_as_they_are(settings) == {}
    assert pipeline.produce(settings, "oursis", system.poll, polled=True).published == 2
    system.log.append(("o2", "South High"))
    (one,) = pipeline.dry_run(settings, "oursis", system.poll, polled=True, most=5).differences
    assert (one.change, one.fields) == ("updated", {"name": ("South", "South High")})


def test_killed_it_leaves_nothing_that_counts(commands: Commands) -> None:
    """The next run deletes its working files; after SIGTERM they are deleted at once."""
    take(commands, DAY_1)
    settings = commands.settings
    ends = topics_as_they_are(settings)
    work = settings.home / "work" / settings.topic_prefix / "oneroster-csv.dry-run"
    for number in (signal.SIGTERM, signal.SIGKILL):
        process = commands.start("produce", "oneroster-csv", str(DAY_2), "--dry-run")
        until(work.exists, "the dry run at work")
        time.sleep(0.2)
        process.send_signal(number)
        process.communicate(timeout=60)
        assert process.returncode != 0
        assert work.exists() == (number == signal.SIGKILL)
    assert topics_as_they_are(settings) == ends
    assert take(commands, DAY_2)["student"]["created"] == 10
    assert not work.exists()


def test_two_at_once_do_not_meet(commands: Commands) -> None:
    """A dry run is refused while another dry run or a run of the source is running."""
    take(commands, DAY_1)
    settings = commands.settings
    for lock in ("dry-run.lock", "lock"):
        path = settings.home / "work" / settings.topic_prefix / "oneroster-csv"
        with pipeline._held(path, lock, "oneroster-csv"):
            refused = commands.run("produce", "oneroster-csv", str(DAY_2), "--dry-run", status=1)
        assert "is running" in refused["error"]
    assert json.dumps(dry(commands, str(DAY_2)))
