"""A consumer under an agreement learns that the agreement is over, and what was deleted."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import replace
from datetime import date
from typing import Any

import pytest

from bus.delivery import Position
from bus.errors import RetryLater, Stop
from bus.settings import KafkaSettings, Settings
from bus.vendors import agreement_watch
from bus.vendors.agreement_watch import AgreementChanged, AgreementWatch, why_over
from bus.vendors.applied import Applied
from bus.vendors.outbox import scope_mark
from tests.agreements import DAY
from tests.unit.test_vendors_applied import an_applied

TOPIC = "schoolbus.vendor.math-app.student"
PLACE = Position(TOPIC, 0)


class Message:
    def __init__(self, key: str, offset: int, value: bytes | None, scope: str = "") -> None:
        self._key, self._offset, self._value = key.encode(), offset, value
        self._scope = scope

    def headers(self) -> list[tuple[str, bytes]]:
        return [("ce_scope", self._scope.encode())] if self._scope else []

    def topic(self) -> str:
        return TOPIC

    def partition(self) -> int:
        return 0

    def offset(self) -> int:
        return self._offset

    def key(self) -> bytes:
        return self._key

    def value(self) -> bytes | None:
        return self._value


class Kafka:
    """What the watch asks Kafka: the end of the topic of agreements, and messages.

    stored:  the agreement as it is stored now.
    written: the edition that its topics hold whole.
    news:    the end of the topic of agreements.
    end:     the end of the agreement's own topic.
    fails:   whether Kafka does not answer.
    """

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.stored: Applied | None = an_applied()
        self.written = ""
        self.news = 1
        self.end = 1
        self.fails = False
        self.read = 0
        self.messages: list[Message] = []
        self.lock = threading.Lock()
        monkeypatch.setattr(agreement_watch, "Reader", lambda *_, **__: self)
        monkeypatch.setattr(agreement_watch.applied_agreements, "read", self._stored)
        monkeypatch.setattr(agreement_watch.written_editions, "read", lambda *_: self.written)
        monkeypatch.setattr(AgreementWatch, "_committed", lambda _: {PLACE: 0})

    def _stored(self, _: Settings) -> dict[str, Applied]:
        self.read += 1
        return {self.stored.name: self.stored} if self.stored else {}

    def __enter__(self) -> Kafka:
        return self

    def __exit__(self, *_: object) -> None:
        pass

    def ends(self, names: list[str]) -> dict[Position, int]:
        if self.fails:
            raise RetryLater("no answer")
        if names == [TOPIC]:
            return {PLACE: self.end}
        return {Position("schoolbus.vendors", 0): self.news}

    def assign(self, _: object) -> None:
        pass

    def take(self, patience: float) -> tuple[list[Message], list[tuple[Position, int]]]:
        threading.Event().wait(0.005)
        with self.lock:
            taken, self.messages = self.messages, []
        return taken, [(PLACE, 0)]


@pytest.fixture
def kafka(monkeypatch: pytest.MonkeyPatch) -> Kafka:
    monkeypatch.setattr(agreement_watch, "LOOK_SECONDS", 0.02)
    return Kafka(monkeypatch)


def watch(**more: Any) -> AgreementWatch:
    settings = Settings(kafka=KafkaSettings(bootstrap="fake:9092"))
    more = {"today": lambda: DAY, **more}
    return AgreementWatch(settings, an_applied(), [TOPIC], "way.math-app.webhook", **more)


def until(condition: Callable[[], bool]) -> None:
    for _ in range(400):
        if condition():
            return
        threading.Event().wait(0.01)
    raise AssertionError("it did not happen within 4 s")


def over(watch: AgreementWatch) -> str:
    try:
        watch.check()
    except Stop as why:
        return str(why)
    return ""


def test_while_the_agreement_holds_delivering_is_allowed(kafka: Kafka) -> None:
    with watch() as running:
        running.check()
        until(lambda: kafka.read > 0)
        read = kafka.read
        threading.Event().wait(0.2)
        running.check()
        assert kafka.read == read  # the topic is read again only when something was added


def test_a_revocation_ends_it(kafka: Kafka) -> None:
    with watch() as running:
        kafka.stored = replace(an_applied(), state="revoked")
        kafka.news += 1
        until(lambda: bool(over(running)))
        assert "was revoked; nothing more is sent" in over(running)


def test_it_is_complete_once_the_topics_hold_this_edition(kafka: Kafka) -> None:
    with watch() as running:
        until(lambda: kafka.read > 0)
        assert not running.complete()
        kafka.written = an_applied().edition
        kafka.news += 1
        until(running.complete)


def test_the_last_day_ends_it_although_nothing_is_written(kafka: Kafka) -> None:
    day = [DAY]
    with watch(today=lambda: day[0]) as running:
        running.check()
        day[0] = date(2027, 8, 1)
        until(lambda: bool(over(running)))
        assert "ended on 2027-07-31" in over(running)


@pytest.mark.parametrize("change", [{"fingerprint": "other"}, {"rekeyed": 1}])
def test_a_change_begins_it_again(kafka: Kafka, change: dict[str, Any]) -> None:
    with watch() as running:
        kafka.stored = replace(an_applied(), **change)
        kafka.news += 1
        until(lambda: bool(over(running)))
        with pytest.raises(AgreementChanged):
            running.check()


def test_a_confirmation_of_the_guard_changes_nothing(kafka: Kafka) -> None:
    with watch() as running:
        kafka.stored = replace(an_applied(), confirmed=3)
        kafka.news += 1
        until(lambda: kafka.read > 1)
        running.check()


def test_without_an_answer_nothing_may_be_delivered(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_watch, "UNKNOWN_SECONDS", 0.2)
    with watch() as running:
        running.check()
        kafka.fails = True
        threading.Event().wait(0.4)
        with pytest.raises(RetryLater, match="unknown whether the agreement math-app still holds"):
            running.check()
        kafka.fails = False
        until(lambda: _is_allowed(running))


def _is_allowed(running: AgreementWatch) -> bool:
    try:
        running.check()
    except RetryLater:
        return False
    return True


def test_a_start_waits_for_kafka_and_gives_up(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_watch, "START_SECONDS", 0.2)
    kafka.fails = True
    with pytest.raises(RetryLater, match="no answer"):
        watch().__enter__()


def test_a_start_under_a_revoked_agreement_ends_at_once(kafka: Kafka) -> None:
    kafka.stored = replace(an_applied(), state="revoked")
    with pytest.raises(Stop, match="was revoked"), watch() as running:
        until(lambda: bool(over(running)))
        running.check()


def test_a_failure_of_the_watch_itself_ends_it(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watch() as running:
        monkeypatch.setattr(kafka, "ends", lambda _: 1 / 0)
        until(lambda: bool(over(running)))
        assert "ZeroDivisionError" in over(running)


def test_it_knows_what_was_deleted_after_a_message(kafka: Kafka) -> None:
    kafka.messages = [Message("s1", 0, b"."), Message("s2", 1, b"."), Message("s1", 2, None)]
    with watch() as running:
        assert running.outdated(Message("s1", 0, b"."))  # type: ignore[arg-type]
        assert not running.outdated(Message("s1", 2, None))  # type: ignore[arg-type]
        assert not running.outdated(Message("s1", 3, b"."))  # type: ignore[arg-type]
        assert not running.outdated(Message("s2", 1, b"."))  # type: ignore[arg-type]
        with kafka.lock:
            kafka.messages = [Message("s2", 4, None)]
        until(lambda: running.outdated(Message("s2", 1, b".")))  # type: ignore[arg-type]


def test_a_state_that_was_written_before_a_change_of_the_agreement_is_outdated(
    kafka: Kafka,
) -> None:
    today = an_applied().fingerprint[:16]
    rekeyed = scope_mark(replace(an_applied(), rekeyed=1).edition)
    with watch() as running:
        assert not running.outdated(Message("s1", 0, b".", today))  # type: ignore[arg-type]
        assert running.outdated(Message("s1", 0, b".", "other"))  # type: ignore[arg-type]
        assert running.outdated(Message("s1", 0, b".", rekeyed))  # type: ignore[arg-type]
        assert not running.outdated(Message("s1", 0, None, "other"))  # type: ignore[arg-type]


def test_a_state_of_a_later_edition_begins_it_again_and_is_not_skipped(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The projection may follow a change sooner than the watch hears of it."""
    changed = replace(an_applied(), rekeyed=1)
    with watch() as running:
        until(lambda: kafka.read == 1)
        monkeypatch.setattr(agreement_watch, "LOOK_SECONDS", 60)
        kafka.stored, kafka.news, kafka.end = changed, 2, 2
        with pytest.raises(AgreementChanged):
            running.outdated(Message("s1", 1, b".", scope_mark(changed.edition)))  # type: ignore[arg-type]


def test_kafka_is_asked_once_for_all_earlier_states(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    with watch() as running:
        monkeypatch.setattr(agreement_watch, "LOOK_SECONDS", 60)
        kafka.end = 100
        assert running.outdated(Message("s1", 0, b".", "earlier"))  # type: ignore[arg-type]
        kafka.fails = True  # it is not asked again
        for offset in range(1, 100):
            assert running.outdated(Message("s1", offset, b".", "earlier"))  # type: ignore[arg-type]


def test_without_an_answer_a_state_of_another_edition_is_not_skipped(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_watch, "UNKNOWN_SECONDS", 0.1)
    with watch() as running:
        kafka.fails = True
        with pytest.raises(RetryLater):
            running.outdated(Message("s1", 0, b".", "other"))  # type: ignore[arg-type]


def test_deletions_that_the_group_has_delivered_are_dropped(
    kafka: Kafka, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(agreement_watch, "KEPT", 1)
    kafka.messages = [Message("s1", 0, None), Message("s2", 1, None)]
    committed = {PLACE: 1}
    monkeypatch.setattr(AgreementWatch, "_committed", lambda _: committed)
    with watch() as running:
        until(lambda: len(running._deleted) == 1)
        assert running.outdated(Message("s2", 0, b"."))  # type: ignore[arg-type]


@pytest.mark.parametrize(
    ("stored", "day", "why"),
    [
        (None, DAY, "is not stored any more"),
        (replace(an_applied(), state="ended"), DAY, "ended on 2027-07-31"),
        (an_applied(), date(2026, 7, 31), "begins on 2026-08-01"),
        (an_applied(), DAY, ""),
    ],
)
def test_why_a_consumer_ends(stored: Applied | None, day: date, why: str) -> None:
    found = why_over(an_applied(), stored, day)
    assert (found is None) if not why else why in str(found)
