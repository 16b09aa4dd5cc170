"""Products fail in every way, in random mixtures: they miss nothing and count nothing twice.

A product has moods that follow one another: healthy, shaky, almost down. It may take an event
although its answer is lost. It then recognizes the event by its webhook-id when it comes again.
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
from tests.faults.published import SECRET, Published, consume, named, vendor_settings
from tests.oneroster_truth import truth
from tests.unit.test_canvas_imports import TOKEN, Answer, FakeCanvas
from tests.webhook_receiver import Receiver, Reply

Answered = TypeVar("Answered")

MOODS = (0.0, 0.1, 0.2, 0.8)
"""The share of requests that fail."""
REQUESTS = 40
"""The largest number of requests in one mood."""
WRONG: tuple[Reply, ...] = (500, 500, 502, 503, 429, "drop", "drop", "hang", "half", "trickle")
TAKEN = (204, "drop", "half", "trickle")
"""The answers of a vendor that has taken the event."""


class Moods:
    """Decides for each request whether it fails. Safe to use from any thread."""

    def __init__(self, rng: random.Random) -> None:
        self._rng = rng
        self._lock = threading.Lock()
        self._left = 0
        self._share = 0.0
        self.had: Counter[str] = Counter()

    @property
    def told(self) -> str:
        """A summary of the answers."""
        return ", ".join(f"{n}x {how}" for how, n in sorted(self.had.items()))

    def choose(self, wrong: Sequence[Answered], right: Answered) -> Answered:
        """Return one of the failures, or the right answer."""
        with self._lock:
            if not self._left:
                self._share, self._left = self._rng.choice(MOODS), self._rng.randint(5, REQUESTS)
            self._left -= 1
            chosen = self._rng.choice(wrong) if self._rng.random() < self._share else right
            self.had[str(chosen)] += 1
            return chosen


def test_a_vendor_that_breaks_in_every_way(
    published: Settings, tmp_path: Path, rng: random.Random, findings: Any, turn: int
) -> None:
    moods = Moods(rng)
    with Receiver(SECRET, answer=lambda _: moods.choose(WRONG, 204)) as vendor:
        how = vendor_settings(vendor.url, tmp_path, total_seconds=0.3)
        consume(published, named(WEBHOOK, f"moody{turn}", batch_records=100), how)
        taken = [event for event in vendor.received if event.verified and event.reply in TAKEN]
    Published.of(published).told(taken)
    again = len(taken) - len({event.id for event in taken})
    findings.add("vendor", moods.told, f"nothing lost, {again} came twice by the same id")


class MoodyCanvas(FakeCanvas):
    """Canvas with a failing import API; it may finish an import although its answer is lost."""

    def __init__(self, moods: Moods) -> None:
        super().__init__()
        self.states = ["importing"]
        self._moods = moods
        self._over = threading.Event()

    def answer(self, method: str, path: str, token: str | None, body: bytes) -> Answer | None:
        how = self._moods.choose(("500", "503", "throttled", "dropped", "hangs"), "well")
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
    moods = Moods(rng)
    canvas = MoodyCanvas(moods)
    try:
        how = CanvasSettings(url=canvas.url, token=SecretStr(TOKEN), poll_seconds=0.5)
        consume(published, named(CANVAS, f"moody{turn}", batch_records=40), how)
    finally:
        canvas.close()
    roles = {"student": "student", "teacher": "teacher", "aide": "ta"}
    wanted = truth(extracts[-1]).rosters
    assert canvas_model.rosters(canvas.state) == {(c, u, roles[r]) for c, u, r in wanted}
    findings.add("canvas", moods.told, f"in {len(canvas.imports)} imports; rosters are the SIS's")
