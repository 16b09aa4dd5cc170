"""The loop of the projection."""

from __future__ import annotations

from unittest.mock import MagicMock

import pytest
from structlog.testing import capture_logs

from bus.settings import KafkaSettings, Settings
from bus.vendors import projection_work
from bus.vendors.district_reader import DistrictBatch
from bus.vendors.projection_run import Run
from bus.vendors.shard import WHOLE
from tests.agreements import DAY


@pytest.fixture
def work(monkeypatch: pytest.MonkeyPatch) -> projection_work.Work:
    """The projection at its start; there are messages that it has not read."""
    monkeypatch.setattr(projection_work.applied_agreements, "read", lambda _: {})
    settings = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
    made = projection_work.Work(Run(settings, lambda: DAY, lambda: 0.0), WHOLE)
    made._turn = MagicMock(**{"changed.return_value": False})
    made._streams = MagicMock(names=[])
    made._ends, made._reader = MagicMock(), MagicMock()
    made._reader.take.return_value = DistrictBatch([], {})
    return made


def test_a_stop_before_all_was_read_sends_nothing(work: projection_work.Work) -> None:
    """An opt-out may not have been read yet, and the outbox may have a record that it forbids."""

    def behind() -> bool:
        work._stopping.set()
        return True

    work._reader.behind = behind  # type: ignore[method-assign]
    work._catch_up()
    work._streams.begin_sending.assert_not_called()  # type: ignore[attr-defined]
    assert not work.worked


@pytest.mark.parametrize("is_new", [True, False])
def test_a_wait_for_an_open_transaction_is_logged_once(
    work: projection_work.Work, is_new: bool
) -> None:
    """Also if there are no new messages besides those that the transaction hides."""
    now, ends = iter(range(0, 1000, 4)), iter([True] * 8 + [False])
    work._clock = lambda: float(next(now))
    work._reader.behind = lambda: next(ends)  # type: ignore[method-assign]
    first = DistrictBatch([MagicMock()] if is_new else [], {})
    nothing = DistrictBatch([], {})
    batches = [first, *[nothing] * 7]
    work._reader.take = MagicMock(side_effect=batches)  # type: ignore[method-assign]
    work._take = lambda _: None  # type: ignore[method-assign]
    with capture_logs() as logged:
        work._catch_up()
    assert [one["event"] for one in logged if "transaction" in one["event"]] != []
    assert len(logged) == 1
    assert work.worked
