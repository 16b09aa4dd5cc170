"""How long each part and each folder of `make test` took, and how many tests passed in it.

The time of a folder is the sum of its tests, because several tests run at once.

`python -m tests.times begin` deletes the file of times. `… note PART` writes that a part ends now, which
began when the part before it ended. `… show` prints the table. pytest itself writes the times of its folders
(`tests/conftest.py`), in the file that the variable `TEST_TIMES` names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from collections.abc import Iterable, Mapping, Sequence
from itertools import pairwise
from pathlib import Path
from typing import Any

VARIABLE = "TEST_TIMES"


Folders = Mapping[str, tuple[float, int]]
"""The seconds of the tests of each folder, and how many there are."""


def note(file: Path, part: str, passed: int = 0, folders: Folders | None = None) -> None:
    """Write that a part ends now, in which this many tests passed; an empty name begins the run."""
    line = {"part": part, "at": time.time(), "passed": passed, "folders": folders or {}}
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps(line) + "\n")


def by_folder(passed: Iterable[Any]) -> Folders:
    """Return the times of folders from pytest's reports of passed tests, without fixtures."""
    found: dict[str, tuple[float, int]] = {}
    for report in passed:
        folder = report.nodeid.removeprefix("tests/").partition("/")[0]
        seconds, number = found.get(folder, (0.0, 0))
        found[folder] = (seconds + report.duration, number + 1)
    return found


def folders(arguments: list[str]) -> str:
    """Return the name of a part of a pytest run: the folders that pytest was given."""
    return ", ".join(Path(one).name for one in arguments)


def table(notes: list[dict[str, Any]]) -> str:
    """Return a table with a line for each part, one for all parts, and one for each folder.

    A part with several lines in the file has one line in the table.
    """
    parts: dict[str, list[float]] = {}
    for before, one in pairwise(notes):
        sums = parts.setdefault(str(one["part"]), [0, 0])
        sums[0] += one["at"] - before["at"]
        sums[1] += one["passed"]
    parts["all"] = [sum(column) for column in zip([0, 0], *parts.values(), strict=True)]
    each: dict[str, list[float]] = {}
    for one in notes:
        for folder, (seconds, number) in one.get("folders", {}).items():
            sums = each.setdefault(folder, [0, 0])
            sums[0] += seconds
            sums[1] += number
    return "\n".join([*_lines("part", "seconds", parts), "", *_lines("folder", "if alone", each)])


def _lines(what: str, took: str, rows: Mapping[str, Sequence[float]]) -> list[str]:
    width = max(map(len, (what, *rows))) + 2
    found = [
        f"{name:<{width}}{seconds:>9.0f}{passed:>8}" for name, (seconds, passed) in rows.items()
    ]
    return [f"{what:<{width}}{took:>9}{'passed':>8}", *found]


def main() -> None:
    """Run the command line."""
    file, (what, *part) = Path(os.environ[VARIABLE]), sys.argv[1:]
    if what == "begin":
        file.unlink(missing_ok=True)
        note(file, "")
    elif what == "note":
        note(file, *part)
    elif file.exists():
        print(table([json.loads(line) for line in file.read_text("utf-8").splitlines()]))


if __name__ == "__main__":
    main()
