"""Measures a district's second day into each product, beside its first.

The cost of a product's day must depend on the changes, not on the size of the district. So the
second day, on which a few students change, must take a few seconds where the first took minutes.
Each figure is one command, `bus consume PRODUCT --until-caught-up`. Its time includes the start of
the command.

* Canvas receives a zip with the changes. An index of the current state decides what to send
  (`bus.consume.active_index`). The third day, for which that index is deleted, has a separate
  figure.
* School Data Sync receives complete sets. Its second day is compared with the minimum work, which
  is to write the files of the set once. What the command costs without any change, mostly its
  start, has a separate figure.
* The webhook product sends one signed POST for each change to a vendor that answers at once.
"""

from __future__ import annotations

import csv
import json
import shutil
from collections.abc import Callable, Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from typing import Any

from bus import local, plugins
from bus.bench.figures import Comparison, Figure
from bus.bench.measured import alone, command
from bus.bench.traffic import vendor
from bus.demo.stage import Stage

HOUR = 3600.0
"""Seconds to wait for a command."""
TITLES = {"canvas": "Canvas", "microsoft-sds": "School Data Sync", "webhook": "the webhook product"}
"""The name of each product in titles."""
TARGETS = {
    "canvas": "under 3 s for 100,000 students, under 10 s for 1,000,000",
    "microsoft-sds": "at most the time of writing the files once (a ratio of 1)",
    "webhook": "",
}
"""The target for each product."""
SUBJECTS = {1: "first day", 2: "second day", 3: "third day, without its index"}
"""The name of each day in the results."""
UNCHANGED = "the command without changes"
"""The name of what a command costs when there is nothing to deliver."""


def writing(source: str, target: str) -> Callable[[], int]:
    """Prepare to write the CSV files of one folder to another, row by row.

    The function that is returned does it and returns the number of rows.
    """

    def run() -> int:
        number = 0
        for path in sorted(Path(source).glob("*.csv")):
            with (
                path.open(encoding="utf-8", newline="") as rows,
                (Path(target) / path.name).open("w", encoding="utf-8", newline="") as file,
            ):
                write = csv.writer(file).writerow
                for row in csv.reader(rows):
                    write(row)
                    number += 1
        return number

    return run


def measure(
    folder: Path,
    *,
    students: Sequence[int],
    products: Sequence[str],
    change: float,
    progress: Callable[[str], None],
) -> list[Comparison]:
    """Measure each size and product, on a bus in `folder`, which is rebuilt each time.

    students: the sizes of the district.
    change:   the share of students, 0 to 1, that each later day changes.
    """
    return [
        found for number in students for found in _days(folder, number, products, change, progress)
    ]


def _days(
    folder: Path,
    students: int,
    products: Sequence[str],
    change: float,
    progress: Callable[[str], None],
) -> list[Comparison]:
    stage = Stage(folder)
    with stage, ExitStack() as ends:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        stage.run("schemas", "apply")
        out = {name: stage.folder / "out" / name for name in products}
        arguments = {name: ("--out", str(path)) for name, path in out.items()}
        if "webhook" in products:
            stage.set(BUS_PRODUCTS__WEBHOOK__SECRET=stage.webhook_secret)
            log = stage.folder / "received.csv"
            _, url = ends.enter_context(vendor(stage.webhook_secret, log))
            arguments["webhook"] = ("--url", url)
        figures: dict[str, list[Figure]] = {name: [] for name in products}
        days = (1, 2, 3) if "canvas" in products else (1, 2)
        for day in days:
            progress(f"{students:,} students: writing and publishing day {day}")
            published = _publish(stage, students, change, day)
            for name in products if day < 3 else ["canvas"]:
                progress(f"delivering day {day} to {TITLES[name]}")
                if day == 3:
                    shutil.rmtree(stage.settings.home / "standing", ignore_errors=True)
                line = stage.command("consume", name, *arguments[name], "--until-caught-up")
                _, cost = command(line, stage.folder, stage.env)
                whole = name == "microsoft-sds"
                number = _rows(out[name]) if whole else _events(name, published)
                figures[name].append(Figure(SUBJECTS[day], number, cost))
                if whole and day == 2:
                    _, cost = command(line, stage.folder, stage.env)
                    figures[name].append(Figure(UNCHANGED, number, cost))
        found = []
        for name in products:
            job = f"second day into {TITLES[name]}, {students:,} students, {change:.0%} changed"
            first, second, *rest = figures[name]
            compared = Comparison(job, TARGETS[name], [second, first, *rest])
            if name == "microsoft-sds":
                progress("writing School Data Sync's files once")
                compared.figures.append(_written_once(stage, out[name]))
                compared.notes.append("records: the rows of the set")
            else:
                compared.notes.append("records: the events of the product's kinds on that day")
            found.append(compared)
        return found


def _publish(stage: Stage, students: int, change: float, day: int) -> Mapping[str, int]:
    """Write and publish the extract of a day. Return the number of events of each kind."""
    path = stage.folder / "extracts" / f"day-{day}"
    size = ("--students", str(students), "--change", str(change), "--day", str(day))
    stage.run("sample", str(path), *size, patience=HOUR)
    counted: dict[str, dict[str, Any]] = stage.run(
        "produce", "oneroster-csv", str(path), patience=HOUR
    )["records"]
    shutil.rmtree(path)
    return {
        kind: sum(counts[change] for change in ("created", "updated", "withdrawn"))
        for kind, counts in counted.items()
    }


def _events(name: str, published: Mapping[str, int]) -> int:
    return sum(published.get(kind, 0) for kind in plugins.product(name).kinds)


def _rows(out: Path) -> int:
    """Return the number of rows of the set in a folder (`consumers.delivery.full_set`)."""
    account: dict[str, dict[str, dict[str, int]]] = json.loads(
        (out / ".schoolbus" / "set.json").read_text("utf-8")
    )
    return sum(file["rows"] for file in account["files"].values())


def _written_once(stage: Stage, out: Path) -> Figure:
    target = stage.folder / "written"
    target.mkdir()
    number, cost = alone(writing, str(out), str(target))
    return Figure("its files written once", number, cost)
