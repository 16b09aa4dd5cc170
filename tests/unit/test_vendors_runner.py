"""Which agreements the projection starts, and when it writes their topics whole."""

from __future__ import annotations

from datetime import date
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.settings import KafkaSettings, Settings
from bus.vendors import runner
from bus.vendors.applied import Applied
from tests.agreements import DAY
from tests.unit.test_vendors_applied import an_applied


class Stream:
    """The stream of an agreement whose topics show an earlier edition."""

    def __init__(self, _: Settings, one: Applied, *more: Any) -> None:
        self.applied = one
        self.topics = {"student": "schoolbus.vendor.math-app.student"}
        self.written: list[dict[str, int]] = []

    def stale(self) -> bool:
        return not self.written

    def write_again(self, ends: dict[str, int]) -> None:
        self.written.append(ends)

    def confirm(self, _: Applied) -> None:
        """Do nothing."""


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> Any:
    """The projection of a district with one agreement, which was changed."""
    made = runner._Work.__new__(runner._Work)
    made._settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
    made._applied, made._streams, made._day = {"math-app": an_applied()}, {}, DAY
    made._view, made._outbox, made._reader = MagicMock(), MagicMock(), MagicMock(partitions=4)
    made._outbox.confirm.return_value = 0
    made._outcome, made._clock = runner.RunOutcome(), lambda: 0.0
    monkeypatch.setattr(runner, "VendorStream", Stream)
    monkeypatch.setattr(runner.master_key, "read", lambda _: [])
    monkeypatch.setattr(runner.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(runner.vendor_topics, "possible_topics", lambda *_: [])
    monkeypatch.setattr(runner.old_records, "ends", lambda *_: {})
    monkeypatch.setattr(runner.stream_progress, "shows", lambda *_: an_applied().edition)
    return made


def test_topics_are_written_whole_only_when_the_districts_records_are_all_there(work: Any) -> None:
    work._start_streams()
    assert work._streams == {}, "it is left for later"
    assert work._outcome.agreements == []
    work._start_streams(new=True)
    assert len(work._streams["math-app"].written) == 1
    assert work._outcome.agreements == ["math-app"]
    work._start_streams(new=True)
    assert len(work._streams["math-app"].written) == 1, "not once more"


def test_what_is_on_the_way_is_stored_before_the_ends_of_the_topics_are_read(
    work: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    work._outbox.confirm.side_effect = lambda: steps.append("confirmed") or 0
    monkeypatch.setattr(runner.old_records, "ends", lambda *_: steps.append("ends") or {})
    work._start_streams(new=True)
    assert steps == ["confirmed", "ends"]


def test_an_agreement_that_is_over_is_forgotten_after_what_is_on_the_way(work: Any) -> None:
    work._start_streams(new=True)
    work._outbox.reset_mock()
    work._day = date(2100, 1, 1)
    work._start_streams(new=True)
    assert work._streams == {}
    assert [call[0] for call in work._outbox.method_calls] == ["confirm", "forget"]


def test_a_stop_before_all_was_read_sends_nothing(work: Any) -> None:
    """An opt-out may not have been read yet, and the outbox may have a record that it forbids."""
    work._deletions, work._closing, work.worked = MagicMock(), [], False
    work._stopping = MagicMock()
    work._stopping.is_set.side_effect = [False, True]
    work._heed, work._take = lambda: None, lambda _: None
    work._reader.behind.return_value = True
    work._catch_up()
    work._outbox.begin.assert_not_called()
    assert not work.worked
