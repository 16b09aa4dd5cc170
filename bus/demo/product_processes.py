"""Reports what each product of the demo has received, from the place where it was delivered."""

from __future__ import annotations

import csv
import io
import json
import time
import zipfile
from collections import Counter
from collections.abc import Iterable
from pathlib import Path

from bus.demo.stage import PATIENCE
from bus.demo.vendor import Vendor
from bus.errors import Stop
from bus.kafka.overview import overview
from bus.settings import Settings

PRODUCTS = ("canvas", "microsoft-sds", "webhook")


def caught_up(settings: Settings, out: Path, since: float) -> dict[str, float]:
    """Wait until each product has everything, and return how many seconds each took.

    since: the moment from which to count (`time.time`).

    Raises `Stop` if a product takes longer than PATIENCE.
    """
    took: dict[str, float] = {}
    while len(took) < len(PRODUCTS):
        lag = overview(settings, counted=0).lag
        now = time.time()
        for name in PRODUCTS:
            if name not in took and lag.get(f"{settings.topic_prefix}.{name}") == 0:
                if name == "microsoft-sds" and not _written_since(out / name, since):
                    continue
                took[name] = now - since
        if now - since > PATIENCE:
            late = ", ".join(name for name in PRODUCTS if name not in took)
            raise Stop(
                f"{late} did not catch up within {PATIENCE:.0f} s; see the demo's log folder"
            )
        time.sleep(0.25)
    return took


def canvas(folder: Path, seen: set[str]) -> str:
    """Return a summary of the new zips and the rows of their files."""
    new = sorted(path for path in folder.glob("*.zip") if path.name not in seen)
    seen |= {path.name for path in new}
    rows: Counter[str] = Counter()
    for path in new:
        with zipfile.ZipFile(path) as archive:
            for name in archive.namelist():
                with archive.open(name) as raw:
                    lines = csv.reader(io.TextIOWrapper(raw, "utf-8", newline=""))
                    rows[name.removesuffix(".csv")] += sum(1 for _ in lines) - 1
    zips = f"{len(new)} zip{'s' if len(new) != 1 else ''}"
    return f"{zips} to import: {listed(rows.items())}"


def sds(folder: Path) -> str:
    """Return a summary of the current set of files."""
    files = json.loads((folder / ".schoolbus" / "set.json").read_text("utf-8"))["files"]
    return "the whole set: " + listed(
        (name.removesuffix(".csv"), about["rows"]) for name, about in files.items() if about["rows"]
    )


def webhook(vendor: Vendor, before: Counter[str]) -> str:
    """Return a summary of the events that arrived since `before`."""
    new = vendor.types - before
    changes: Counter[str] = Counter()
    for name, number in new.items():
        changes[name.rpartition(".")[2]] += number
    forged = f", {vendor.forged} forged" if vendor.forged else ""
    return f"{new.total():,} signed events: {listed(changes.items(), after=True)}{forged}"


def listed(numbers: Iterable[tuple[str, int]], after: bool = False) -> str:
    """Return counts as text: `users 24, classes 3`, or if `after`: `24 created, 3 updated`."""
    pairs = [f"{n:,} {name}" if after else f"{name} {n:,}" for name, n in numbers if n]
    return ", ".join(pairs) or "nothing"


def _written_since(folder: Path, since: float) -> bool:
    made = folder / ".schoolbus" / "set.json"
    return made.is_file() and made.stat().st_mtime >= since
