"""The package that docs/products.md shows, written as its reader would."""

from __future__ import annotations

import re
from pathlib import Path

PAGE = Path(__file__).parents[1] / "docs" / "products.md"
FILES = {"library.py", "pyproject.toml", "test_library.py"}


def write(folder: Path) -> Path:
    """Write the files of the page into a folder; the folder."""
    text = PAGE.read_text("utf-8")
    text = text[text.index("## A product of your own") :]
    # what stands between a file's name and its code is prose
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", text, re.M | re.S)
    names = re.findall(r"`((?:test_)?library\.py|pyproject\.toml)`", text)
    found = dict(zip(dict.fromkeys(names), blocks, strict=True))
    assert found.keys() == FILES
    folder.mkdir()
    for name, code in found.items():
        (folder / name).write_text(code, "utf-8")
    return folder
