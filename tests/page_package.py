"""The packages that docs/own-product.md and docs/own-source.md show, written as their readers would."""

from __future__ import annotations

import re
from pathlib import Path

DOCS = Path(__file__).parents[1] / "docs"
PACKAGES = {"library": "own-product.md", "oursis": "own-source.md"}
"""Each module, and the page that shows it."""


def write(module: str, folder: Path) -> Path:
    """Write the files of a module's page into a folder; return the folder."""
    text = (DOCS / PACKAGES[module]).read_text("utf-8")
    # the text between a file's name and its code is prose
    blocks = re.findall(r"^```(?:python|toml)\n(.*?)^```$", text, re.M | re.S)
    names = re.findall(rf"`((?:test_)?{module}\.py|pyproject\.toml)`", text)
    found = dict(zip(dict.fromkeys(names), blocks, strict=True))
    assert found.keys() == {f"{module}.py", "pyproject.toml", f"test_{module}.py"}
    folder.mkdir()
    for name, code in found.items():
        (folder / name).write_text(code, "utf-8")
    return folder
