"""Applied agreements are read as they were stored. A day decides whether one is active."""

from __future__ import annotations

from dataclasses import replace
from datetime import UTC, date, datetime
from typing import Any

import pytest

from bus.errors import Stop
from bus.kafka import topics
from bus.vendors import applied
from bus.vendors.applied import Applied, State
from tests.agreements import DAY, an_agreement
from tests.fakes.harness import Bus


def an_applied(name: str = "math-app", **changes: object) -> Applied:
    agreement = an_agreement(name, **changes)
    return Applied(
        agreement=agreement,
        state="active",
        ids_name=name,
        wrapped_key=b"\x00wrapped\xff",
        applied_at=datetime(2026, 11, 28, 4, 0, tzinfo=UTC),
        fingerprint=applied.fingerprint(agreement),
    )


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    return Bus(monkeypatch)


def test_nothing_is_applied_before_the_topic_exists(bus: Bus) -> None:
    assert applied.read(bus.settings) == {}


def test_what_is_written_is_read(bus: Bus) -> None:
    one = an_applied(
        "research",
        share={
            "categories": ["Demographics"],
            "without": ["demographics.sex"],
            "why": {"Demographics": "the study"},
        },
        students={"grades": ["06"]},
        history=date(2026, 1, 1),
    )
    revoked = replace(
        an_applied(), state="revoked", ended_at=datetime(2026, 11, 29, tzinfo=UTC), why="a breach"
    )
    for entry in (revoked, one, replace(one, confirmed=2)):
        applied.write(bus.settings, entry)
    assert applied.read(bus.settings) == {
        "math-app": revoked,
        "research": replace(one, confirmed=2),
    }
    assert list(applied.read(bus.settings)) == ["math-app", "research"]


@pytest.mark.parametrize("state", ["revoked", "ended"])
def test_an_agreement_that_is_over_is_not_made_active_again(bus: Bus, state: State) -> None:
    over = replace(an_applied(), state=state)
    applied.write(bus.settings, over)
    with pytest.raises(Stop, match=f"math-app is {state}, and stays so"):
        applied.write(bus.settings, an_applied("other"), an_applied())
    assert applied.read(bus.settings) == {"math-app": over}
    assert len(bus.broker.messages(topics.vendors(bus.settings))) == 1


def test_a_revocation_in_between_wins_and_is_the_last_entry(
    bus: Bus, monkeypatch: pytest.MonkeyPatch
) -> None:
    applied.write(bus.settings, an_applied())
    revoked = replace(an_applied(), state="revoked", why="a breach")
    send = applied._send

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr("bus.vendors.applied._send", send)
        applied.write(bus.settings, revoked)
        send(*arguments)

    monkeypatch.setattr("bus.vendors.applied._send", overtaken)
    with pytest.raises(Stop, match="stays so"):
        applied.write(bus.settings, replace(an_applied(), confirmed=1))
    assert applied.read(bus.settings) == {"math-app": revoked}
    last = bus.broker.messages(topics.vendors(bus.settings))[-1]
    assert b'"state": "revoked"' in (last.value() or b"")


def test_an_active_entry_after_a_revocation_does_not_count(bus: Bus) -> None:
    revoked = replace(an_applied(), state="revoked")
    applied.write(bus.settings, revoked)
    value = applied._encode(an_applied())
    bus.broker.append(topics.vendors(bus.settings), 0, key=b"math-app", value=value)
    assert applied.read(bus.settings) == {"math-app": revoked}


def test_an_erased_entry_is_left_out(bus: Bus) -> None:
    applied.write(bus.settings, an_applied())
    bus.broker.append(topics.vendors(bus.settings), 0, key=b"math-app", value=None)
    assert applied.read(bus.settings) == {}


@pytest.mark.parametrize("value", [b"no JSON", b"{}", b"[]", b'{"endedAt": null}'])
def test_an_entry_of_another_program_is_named(bus: Bus, value: bytes) -> None:
    applied.write(bus.settings, an_applied())
    bus.broker.append(topics.vendors(bus.settings), 0, key=b"library", value=value)
    with pytest.raises(Stop, match=r"the entry library of topic schoolbus\.vendors"):
        applied.read(bus.settings)


def test_the_day_decides_whether_an_agreement_is_active() -> None:
    one = an_applied()
    first, last = one.agreement.from_, one.agreement.until
    assert one.active(first) and one.active(last) and one.active(DAY)
    assert not one.over(last)
    assert not one.active(date(2026, 7, 31)) and not one.over(date(2026, 7, 31))
    assert not one.active(date(2027, 8, 1)) and one.over(date(2027, 8, 1))
    for state in ("ended", "revoked"):
        gone = replace(one, state=state)  # type: ignore[arg-type]
        assert not gone.active(DAY) and gone.over(DAY)


def test_the_fingerprint_depends_on_the_content_alone() -> None:
    assert applied.fingerprint(an_agreement()) == applied.fingerprint(an_agreement())
    assert applied.fingerprint(an_agreement()) != applied.fingerprint(
        an_agreement(roles=["teacher"])
    )
    assert applied.fingerprint(an_agreement()) != applied.fingerprint(an_agreement("other"))
