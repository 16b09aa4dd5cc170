"""How `bus consume` ends."""

from __future__ import annotations

import signal
from collections import Counter
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from typer.testing import CliRunner

import bus.consume.worker
import bus.observe.telemetry
import bus.registry.subjects
from bus.cli import app
from bus.cli.stop_signals import stop_on_signals
from bus.consume.worker_state import WorkerOutcome


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
    stop_on_signals(lambda: stops.append(None))
    signal.raise_signal(signal.SIGINT)
    assert len(stops) == 1
    assert "Ctrl-C again to end at once" in capfd.readouterr().err
    with pytest.raises(KeyboardInterrupt):
        signal.raise_signal(signal.SIGINT)


def test_sigterm_ends_in_order_however_often(capfd: pytest.CaptureFixture[str]) -> None:
    stops: list[None] = []
    stop_on_signals(lambda: stops.append(None))
    signal.raise_signal(signal.SIGTERM)
    signal.raise_signal(signal.SIGTERM)
    assert len(stops) == 2
    assert capfd.readouterr().err == ""


def consumed(
    monkeypatch: pytest.MonkeyPatch, folder: Path, outcome: WorkerOutcome, *more: str
) -> Any:
    """Run `bus consume canvas --out FOLDER` with a worker that returns this outcome."""

    class Loop:
        def __init__(self, *_: Any, brief: bool, **__: Any) -> None:
            assert brief  # of `--until-caught-up`
            self.outcome = outcome
            self.live = self.ready = self.stop = lambda: ""

        def run(self, **_: Any) -> WorkerOutcome:
            return outcome

    monkeypatch.setattr(bus.consume.worker, "Worker", Loop)
    monkeypatch.setattr(bus.registry.subjects, "must_have_some", lambda _: None)
    monkeypatch.setattr(bus.observe.telemetry, "configure", lambda *_, **__: None)
    line = ["consume", "canvas", "--out", str(folder), "--until-caught-up", *more]
    return CliRunner().invoke(app, line)


@pytest.mark.parametrize(
    ("delivered", "dead", "status"), [(0, 0, 0), (5, 0, 0), (5, 1, 0), (0, 1, 1)]
)
def test_it_ends_with_1_when_all_went_to_the_dead_letters(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, delivered: int, dead: int, status: int
) -> None:
    outcome = WorkerOutcome(Counter(student=delivered), dead)
    assert consumed(monkeypatch, tmp_path, outcome, "--json").exit_code == status
    done = consumed(monkeypatch, tmp_path, outcome)
    assert done.exit_code == status
    assert ("bus deadletters list canvas" in done.stdout) == bool(dead)


def test_under_an_agreement_the_hint_names_it(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def under(*_: Any) -> tuple[str, tuple[str, ...]]:
        return "https://vendor.example", ("student",)

    monkeypatch.setattr("bus.cli.consume._run_under", under)
    outcome = WorkerOutcome(Counter(student=5), 1)
    monkeypatch.setattr("bus.consume.worker_state.WorkerOutcome", lambda: outcome)
    said = consumed(monkeypatch, tmp_path, outcome, "--agreement", "math-app").stdout
    assert "see bus deadletters list canvas --agreement math-app\n" in said


@pytest.mark.parametrize(
    ("outcome", "file", "reported"),
    [
        (WorkerOutcome(had_events=True), ".schoolbus", True),
        (WorkerOutcome(had_events=True), "canvas-1.zip", False),  # the product's usual folder
        (WorkerOutcome(had_events=False), ".schoolbus", False),  # nothing was ever published
        (WorkerOutcome(Counter(student=1), had_events=True), ".schoolbus", False),
    ],
)
def test_a_second_folder_of_a_product_says_how_to_have_the_rest(
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    outcome: WorkerOutcome,
    file: str,
    reported: bool,
) -> None:
    (tmp_path / file).touch()
    monkeypatch.setattr("consumers.canvas.ZipFolder.__init__", lambda *_: None)
    monkeypatch.setattr("consumers.canvas.ZipFolder.close", lambda _: None)
    said = consumed(monkeypatch, tmp_path, outcome).stdout
    assert (f"bus replay canvas --into {tmp_path}" in said) == reported
