"""A vendor's five lines receive records decoded, typed, and at least once."""

from __future__ import annotations

import subprocess
import sys
from itertools import islice
from pathlib import Path

import pytest

from bus import subscribe
from bus.demo.sample import District
from bus.local import reach
from tests import light_install
from tests.integration.commands import Commands

DISTRICT = District(students=100)


@pytest.fixture
def published(commands: Commands) -> Commands:
    """The first day of a small district, published."""
    path = DISTRICT.write(commands.cwd / "day-1.zip")
    commands.run("produce", "oneroster-csv", str(path))
    return commands


def test_all_events_come_decoded_and_in_the_schema(published: Commands) -> None:
    events = list(
        subscribe("student", group="lunch", settings=published.settings, until_caught_up=True)
    )
    assert {event.record["sourcedId"] for event in events} == {
        f"student-{n:07d}" for n in range(100)
    }
    assert {event.type for event in events} == {"org.schoolbus.student.created"}
    assert {event.source for event in events} == {"/oneroster-csv"}
    assert len({event.id for event in events}) == 100
    assert all(event.time.tzinfo is not None for event in events)


def test_what_was_handled_does_not_come_again_and_the_rest_does(published: Commands) -> None:
    def some(number: int | None) -> list[str]:
        found = subscribe("student", group="bus", settings=published.settings, until_caught_up=True)
        return [event.id for event in islice(found, number)]

    first, rest, nothing = some(40), some(None), some(None)
    # The fortieth record was not acknowledged when its reader closed, so it comes again.
    assert set(first) & set(rest) <= {first[-1]}
    assert len(set(first) | set(rest)) == 100
    assert nothing == []


def test_two_groups_have_all_each(published: Commands) -> None:
    for group in ("one", "two"):
        found = subscribe("org", group=group, settings=published.settings, until_caught_up=True)
        assert len(list(found)) == DISTRICT.schools + 1


def test_a_kind_that_is_not_there_is_a_mistake(published: Commands) -> None:
    with pytest.raises(ValueError, match="unknown kind: pupil"):
        next(subscribe("pupil", group="x", settings=published.settings))


VENDOR = """
from bus import subscribe

for event in subscribe("student", group="vendor", until_caught_up=True):
    print(event.kind, event.record["sourcedId"])
"""


def test_a_vendor_needs_a_plain_installation_only(published: Commands, tmp_path: Path) -> None:
    """Python has only what `pip install schoolbus` installs (tests/light_install.py)."""
    light_install.link(tmp_path / "packages")
    ends = reach(published.settings.home) if published.settings.embedded else None
    env = published.env | {"PYTHONPATH": str(tmp_path / "packages")}
    if ends:  # as a vendor names the district's cluster
        env |= {"BUS_KAFKA__BOOTSTRAP": ends.bootstrap, "BUS_REGISTRY__URL": ends.registry}
    done = subprocess.run(
        [sys.executable, "-S", "-c", VENDOR],
        env=env,
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert set(done.stdout.splitlines()) == {f"student student-{n:07d}" for n in range(100)}
