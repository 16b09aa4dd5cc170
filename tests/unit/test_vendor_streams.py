"""Which agreements the projection starts, and when it writes their topics whole."""

from __future__ import annotations

from datetime import date
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.settings import KafkaSettings, Settings
from bus.vendors import agreement_streams
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from tests.agreements import DAY
from tests.unit.test_vendors_applied import an_applied


class Stream:
    """The stream of an agreement whose topics show an earlier edition."""

    def __init__(self, _: Settings, one: Applied, *more: Any) -> None:
        self.applied, self.name = one, one.name
        self.topics = {"student": "schoolbus.vendor.math-app.student"}
        self.written: list[dict[str, int]] = []

    def stale(self) -> bool:
        return not self.written

    def write_again(self, ends: dict[str, int]) -> None:
        self.written.append(ends)

    def confirm(self, _: Applied) -> None:
        """Do nothing."""


@pytest.fixture
def outbox() -> MagicMock:
    return MagicMock(**{"confirm.return_value": 0, "begin.return_value": 0})


@pytest.fixture
def streams(monkeypatch: pytest.MonkeyPatch, outbox: MagicMock) -> AgreementStreams:
    """The projection of a district with one agreement, which was changed."""
    settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
    monkeypatch.setattr(agreement_streams, "VendorStream", Stream)
    monkeypatch.setattr(agreement_streams.master_key, "read", lambda _: [])
    monkeypatch.setattr(agreement_streams.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(agreement_streams.vendor_topics, "possible_topics", lambda *_: [])
    monkeypatch.setattr(agreement_streams.old_records, "ends", lambda *_: {})
    monkeypatch.setattr(agreement_streams.stream_progress, "read", lambda *_: None)
    shown = an_applied().edition
    monkeypatch.setattr(agreement_streams.stream_progress, "shows", lambda *_: shown)
    return AgreementStreams(settings, MagicMock(), outbox, MagicMock(), 4, lambda: 0.0)


def written(streams: AgreementStreams) -> list[dict[str, int]]:
    """Return the ends from which the agreement's topics were written whole."""
    stream: Any = streams._streams["math-app"]
    found: list[dict[str, int]] = stream.written
    return found


ONE = {"math-app": an_applied()}


def test_topics_are_written_whole_only_when_the_districts_records_are_all_there(
    streams: AgreementStreams,
) -> None:
    streams.follow(ONE, DAY, new=False)
    assert streams.names == [], "it is left for later"
    streams.follow(ONE, DAY, new=True)
    assert len(written(streams)) == 1
    assert streams.names == ["math-app"]
    streams.follow(ONE, DAY, new=True)
    assert len(written(streams)) == 1, "not once more"


def test_what_is_on_the_way_is_stored_before_the_ends_of_the_topics_are_read(
    streams: AgreementStreams, outbox: MagicMock, monkeypatch: pytest.MonkeyPatch
) -> None:
    steps: list[str] = []
    outbox.confirm.side_effect = lambda: steps.append("confirmed") or 0
    monkeypatch.setattr(
        agreement_streams.old_records, "ends", lambda *_: steps.append("ends") or {}
    )
    streams.follow(ONE, DAY, new=True)
    assert steps == ["confirmed", "ends"]


def test_an_agreement_that_is_over_is_forgotten_after_what_is_on_the_way(
    streams: AgreementStreams, outbox: MagicMock
) -> None:
    streams.follow(ONE, DAY, new=True)
    outbox.reset_mock()
    streams.follow(ONE, date(2100, 1, 1), new=True)
    assert streams.names == []
    assert [call[0] for call in outbox.method_calls] == ["confirm", "forget"]
