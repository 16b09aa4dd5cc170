"""A vendor's five lines: decoded, typed, at least once."""

from __future__ import annotations

from itertools import islice

import pytest

from bus import subscribe
from bus.demo.sample import District
from tests.integration.commands import Commands

DISTRICT = District(students=100)


@pytest.fixture
def published(commands: Commands) -> Commands:
    """The first day of a small district."""
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
    # The fortieth was not known to be handled when its reader went away, so it comes again.
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
