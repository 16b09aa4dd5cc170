"""How long each part of `make test` took, and how many tests passed in it.

`python -m tests.times begin` forgets what was noted, `… note PART` notes that a part ends now, which
began when the part before it ended, `… show` prints the table. pytest notes its folders by itself
(`tests/conftest.py`), in the file that the variable `TEST_TIMES` names.
"""

from __future__ import annotations

import json
import os
import sys
import time
from itertools import pairwise
from pathlib import Path

VARIABLE = "TEST_TIMES"


def note(file: Path, part: str, passed: int = 0) -> None:
    """Note that a part ends now, in which so many tests passed; "" is the beginning of all."""
    with file.open("a", encoding="utf-8") as lines:
        lines.write(json.dumps({"part": part, "at": time.time(), "passed": passed}) + "\n")


def folders(arguments: list[str]) -> str:
    """The part of a run of pytest: the folders that it was given."""
    return ", ".join(Path(one).name for one in arguments)


def table(notes: list[dict[str, float]]) -> str:
    """A line for each part, and one for all; a part that came in pieces has one line."""
    parts: dict[str, list[float]] = {}
    for before, one in pairwise(notes):
        sums = parts.setdefault(str(one["part"]), [0, 0])
        sums[0] += one["at"] - before["at"]
        sums[1] += one["passed"]
    parts["all"] = [sum(column) for column in zip([0, 0], *parts.values(), strict=True)]
    rows = [f"{part:<16}{seconds:>8.0f}{passed:>8}" for part, (seconds, passed) in parts.items()]
    return "\n".join([f"{'part':<16}{'seconds':>8}{'passed':>8}", *rows])


def main() -> None:
    """The command line."""
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
