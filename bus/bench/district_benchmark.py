"""Measures two complete days of a big district, and compares the second with a plain join.

The second day is compared with DuckDB alone. DuckDB reads the files of both days and joins them by
id and by a hash of the row. That is the minimum work to find out what changed.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import duckdb

from bus import local
from bus.bench.figures import Comparison, Figure
from bus.bench.measured import alone
from bus.bench.produce_benchmark import bus_run
from bus.demo.stage import Stage
from bus.ingest.coercion import text_literal

MEMORY = "1GB"
"""The memory limit of DuckDB, the same as in the bus."""


def join(before: str, after: str) -> Callable[[], int]:
    """Prepare to read two extracts with DuckDB and join them.

    The function that is returned does it and returns the number of rows of the second extract.
    """

    def table(file: Path) -> str:
        name = text_literal(str(file))
        return (
            "(SELECT sourcedId AS id, hash(t) AS print FROM "
            f"read_csv({name}, header = true, all_varchar = true, delim = ',', quote = '\"') t)"
        )

    def run() -> int:
        con = duckdb.connect()
        con.execute("SET enable_progress_bar = false")
        con.execute(f"SET memory_limit = '{MEMORY}'")
        rows = 0
        for file in sorted(Path(after).glob("*.csv")):
            if file.stem == "manifest":
                continue
            found = con.execute(
                "SELECT count(b.id), count(*) FILTER (a.id IS NULL), "
                "count(*) FILTER (b.id IS NULL), count(*) FILTER (a.print <> b.print) "
                f"FROM {table(Path(before) / file.name)} a FULL JOIN {table(file)} b ON a.id = b.id"
            ).fetchall()
            rows += found[0][0]
        return rows

    return run


def measure(
    folder: Path, *, students: int, change: float, progress: Callable[[str], None]
) -> list[Comparison]:
    """Measure the first day, the second day and the join, on a bus in `folder`, which is rebuilt.

    change: the share of students, 0 to 1, that the second day changes.
    """
    with Stage(folder) as stage:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        stage.run("schemas", "apply")
        days = [str(stage.folder / "extracts" / f"day-{day}") for day in (1, 2)]
        for day, path in enumerate(days, 1):
            progress(f"writing day {day} of {students:,} students")
            size = ("--students", str(students), "--change", str(change), "--day", str(day))
            stage.run("sample", path, *size, patience=3600)
        progress("measuring the first day")
        events, cost = alone(bus_run, stage.settings, days[0])
        first = Comparison(f"first day, {students:,} students", "under 1,536 MiB")
        first.figures = [Figure("schoolbus", events, cost)]
        progress("measuring the second day")
        changes, cost = alone(bus_run, stage.settings, days[1])
        progress("measuring the join")
        rows, joined = alone(join, *days)
        second = Comparison(
            f"second day, {students:,} students, {change:.0%} changed",
            "at most 2 times the join's time (a ratio of 0.5), under 2,048 MiB",
        )
        second.figures = [Figure("schoolbus", rows, cost), Figure("DuckDB's join", rows, joined)]
        second.notes.append(f"{rows:,} rows read, {changes:,} events published")
    return [first, second]
