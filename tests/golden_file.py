"""Golden files: earlier test results, one fact a line, sorted, so that a change reads as a diff.

A file has sections; the first word of a line names its section. `UPDATE_GOLDEN=1` before pytest
writes the current results:

    UPDATE_GOLDEN=1 pytest tests/unit/test_public_surface.py tests/integration/test_public_surface.py

Then look at `git diff tests/golden`. Run it in one process (no `-n`), because all sections share a
file.
"""

from __future__ import annotations

import difflib
import os
from collections.abc import Collection, Iterable
from pathlib import Path

FOLDER = Path(__file__).parent / "golden"
ADVICE = (
    "Users see this. If you mean it, write the file again with UPDATE_GOLDEN=1 "
    "(tests/golden_file.py) and list it for users in CHANGELOG.md."
)


def held(name: str, section: str) -> list[str]:
    """Return the lines of a section, as the file has them."""
    path = FOLDER / name
    lines = path.read_text("utf-8").splitlines() if path.exists() else []
    return [line for line in lines if _section(line) == section]


def check(name: str, section: str, found: Iterable[str], advice: str = ADVICE) -> None:
    """Compare the results with a section of the file; fail with the difference and the advice.

    If `UPDATE_GOLDEN` is in the environment, write the section instead.
    """
    lines = sorted(set(found))
    assert all(_section(line) == section for line in lines)
    before = held(name, section)
    if os.environ.get("UPDATE_GOLDEN"):
        _write(name, section, lines)
        return
    difference = [
        line
        for line in difflib.unified_diff(before, lines, "held", "found", lineterm="", n=0)
        if not line.startswith(("---", "+++", "@@"))
    ]
    assert not difference, (
        f"the {section} part of tests/golden/{name} is not what the code has now "
        "(- held, + found):\n" + "\n".join(difference) + f"\n{advice}"
    )


def _write(name: str, section: str, lines: Collection[str]) -> None:
    path = FOLDER / name
    there = path.read_text("utf-8").splitlines() if path.exists() else []
    kept = [line for line in there if _section(line) != section]
    path.parent.mkdir(exist_ok=True)
    path.write_text("".join(f"{line}\n" for line in sorted([*kept, *lines])), "utf-8")


def _section(line: str) -> str:
    return line.split(" ", 1)[0]
