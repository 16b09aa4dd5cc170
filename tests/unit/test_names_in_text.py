"""Documents and docstrings name only modules and objects that exist."""

from __future__ import annotations

import re
from importlib import import_module
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXTS = sorted(
    path
    for pattern in (
        "README.md",
        "docs/**/*.md",
        "bus/**/*.py",
        "producers/**/*.py",
        "consumers/**/*.py",
    )
    for path in ROOT.glob(pattern)
)
NAME = re.compile(r"`((?:bus|producers|consumers)(?:\.\w+)+)`")
FILE = re.compile(r"`?\b((?:bus|producers|consumers|tests)/[\w/]+\.py)\b")
NOT_PYTHON = ("bus.toml", "bus.json", "bus.librdkafka", "producers.NAME")


def there(name: str) -> bool:
    """Return whether a dotted name is a module or a member of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        try:
            found: object = import_module(".".join(parts[:length]))
        except ModuleNotFoundError:
            continue
        for attribute in parts[length:]:
            if attribute in getattr(found, "__annotations__", {}):
                return True
            if not hasattr(found, attribute):
                return False
            found = getattr(found, attribute)
        return True
    return False


@pytest.mark.parametrize("path", TEXTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_each_name_is_there(path: Path) -> None:
    text = path.read_text("utf-8")
    names = {name for name in NAME.findall(text) if name not in NOT_PYTHON}
    files = set(FILE.findall(text))
    assert sorted(name for name in names if not there(name)) == []
    assert sorted(file for file in files if not (ROOT / file).exists()) == []
