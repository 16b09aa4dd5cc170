"""`bus consume`: how it ends."""

from __future__ import annotations

import signal
from collections.abc import Iterator

import pytest

from bus.cli.consume import _stop_on_signals


@pytest.fixture(autouse=True)
def _handlers_as_before() -> Iterator[None]:
    before = {number: signal.getsignal(number) for number in (signal.SIGTERM, signal.SIGINT)}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


def test_ctrl_c_ends_in_order_and_a_second_one_at_once(
    capfd: pytest.CaptureFixture[str],
) -> None:
    stops: list[None] = []
    _stop_on_signals(lambda: stops.append(None))
    signal.raise_signal(signal.SIGINT)
    assert len(stops) == 1
    assert "Ctrl-C again ends at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigterm_ends_in_order_however_often(capfd: pytest.CaptureFixture[str]) -> None:
    stops: list[None] = []
    _stop_on_signals(lambda: stops.append(None))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert len(stops) == 2
    assert capfd.readouterr().err == ""
