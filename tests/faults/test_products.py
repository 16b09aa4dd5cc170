"""Products fail in every way, in random mixtures: they lose nothing and count nothing twice.

A product fails rarely, often or almost always, for some requests at a time. It may accept an event
although its answer is lost. It recognizes the event by its webhook-id when it arrives again.
"""

from __future__ import annotations

import random
import threading
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any, TypeVar

import pytest
from pydantic import SecretStr

from bus.settings import Settings
from consumers.canvas import PRODUCT as CANVAS
from consumers.canvas import Settings as CanvasSettings
from consumers.delivery import canvas_api, canvas_imports
from consumers.webhook import PRODUCT as WEBHOOK
from tests import canvas_model
from tests.faults.published import SECRET, Published, consume, vendor_settings, with_group
from tests.oneroster_truth import truth
from tests.unit.test_canvas_imports import TOKEN, Answer, FakeCanvas
from tests.webhook_receiver import Receiver, Reply

Answered = TypeVar("Answered")

FAILURE_SHARES = (0.0, 0.1, 0.2, 0.8)
"""The share of requests that fail."""
REQUESTS = 40
"""The largest number of requests with the same share of failures."""
FAILURES: tuple[Reply, ...] = (500, 500, 502, 503, 429, "drop", "drop", "hang", "half", "trickle")
ACCEPTED = (204, "drop", "half", "trickle")
"""The answers of a vendor that has accepted the event."""


class RandomFailures:
    """Decides for each request whether it fails. Safe to use from any thread."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._left = 0
        self._share = 0.0
        self.counts: Counter[str] = Counter()

    @property
    def summary(self) -> str:
        """A summary of the answers."""
        return ", ".join(f"{n}x {how}" for how, n in sorted(self.counts.items()))

    def choose(self, failures: Sequence[Answered], success: Answered) -> Answered:
        """Return one of the failures, or the right answer."""
        with self._lock:
            if not self._left:
                self._share, self._left = (
                    self._rng.choice(FAILURE_SHARES),
                    self._rng.randint(5, REQUESTS),
                )
            self._left -= 1
            chosen = self._rng.choice(failures) if self._rng.random() < self._share else success
            self.counts[str(chosen)] += 1
            return chosen


def test_a_vendor_that_breaks_in_every_way(
    published: Settings, tmp_path: Path, rng: random.Random, findings: Any, turn: int
) -> None:
    failures = RandomFailures(rng)
    with Receiver(SECRET, answer=lambda _: failures.choose(FAILURES, 204)) as vendor:
        how = vendor_settings(vendor.url, tmp_path, total_seconds=0.3)
        consume(published, with_group(WEBHOOK, f"moody{turn}", batch_records=100), how)
        accepted = [
            event for event in vendor.received if event.verified and event.reply in ACCEPTED
        ]
    Published.of(published).assert_received(accepted)
    again = len(accepted) - len({event.id for event in accepted})
    findings.add(
        "vendor", failures.summary, f"nothing lost, {again} received twice with the same id"
    )


class FailingCanvas(FakeCanvas):
    """Canvas with a failing import API; it may finish an import although its answer is lost."""

    def __init__(self, failures: RandomFailures) -> None:
        super().__init__()
        self.states = ["importing"]
        self._failures = failures
        self._over = threading.Event()

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> Answer | None:
        how = self._failures.choose(("500", "503", "throttled", "dropped", "hangs"), "well")
        if how in ("500", "503"):
            return int(how), {}, b""
        if how == "throttled":
            return 403, {}, b"403 Forbidden (Rate Limit Exceeded)"
        answered = super().answer(method, path, token, body)
        if how == "hangs":
            self._over.wait(1.0)  # longer than the bus waits
        return None if how in ("dropped", "hangs") else answered

    def close(self) -> None:
        self._over.set()
        super().close()


def test_a_canvas_that_breaks_in_every_way(
    published: Settings,
    extracts: list[Path],
    monkeypatch: pytest.MonkeyPatch,
    rng: random.Random,
    findings: Any,
    turn: int,
) -> None:
    monkeypatch.setattr(canvas_api, "TIMEOUT", canvas_api.httpx2.Timeout(0.5))
    monkeypatch.setattr(canvas_imports, "FIRST_POLL", 0.02)
    monkeypatch.setattr(canvas_imports, "LONGEST_POLL", 0.1)
    failures = RandomFailures(rng)
    canvas = FailingCanvas(failures)
    try:
        how = CanvasSettings(url=canvas.url, token=SecretStr(TOKEN), poll_seconds=0.5)
        consume(published, with_group(CANVAS, f"moody{turn}", batch_records=40), how)
    finally:
        canvas.close()
    roles = {"student": "student", "teacher": "teacher", "aide": "ta"}
    wanted = truth(extracts[-1]).rosters
    assert canvas_model.rosters(canvas.state) == {(c, u, roles[r]) for c, u, r in wanted}
    findings.add(
        "canvas", failures.summary, f"in {len(canvas.imports)} imports; rosters equal the SIS"
    )
