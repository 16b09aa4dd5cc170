"""deploy/bus.toml has every setting with its default, and can be used as it is."""

from __future__ import annotations

import json
import re
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from bus import plugins, settings
from producers.http.settings import HttpSettings
from tests import surface

FILE = Path(__file__).parents[2] / "deploy" / "bus.toml"
NONE = (None, "", [], {})
"""Defaults that mean "not set"; for these the file shows an example."""


def uncommented() -> dict[str, Any]:
    """Return the file with every setting switched on."""
    text = FILE.read_text("utf-8")
    return tomllib.loads(re.sub(r"^#(?=\[|[a-z0-9_]+ = )", "", text, flags=re.MULTILINE))


def defaults() -> dict[str, Any]:
    """Return the default of each setting of this repository by its dotted name."""
    found = {}
    for line in surface.settings():
        if made := re.fullmatch(r"setting (\S+): \{.*\}, default (.*), BUS_\S+", line):
            name, default = made.groups()
            found[name] = None if default.startswith("none") else json.loads(default)
    return found


def dotted(table: dict[str, Any], wanted: dict[str, Any], before: str = "") -> Iterator[Any]:
    """Yield the dotted name and the value of each setting of a table."""
    for key, value in table.items():
        name = before + ("NAME" if before == "producers.http.clients." else key)
        if isinstance(value, dict) and name not in wanted:
            yield from dotted(value, wanted, f"{name}.")
        else:
            yield name, value


def test_it_has_every_setting_with_its_default() -> None:
    wanted = defaults()
    del wanted["products"], wanted["producers"]  # tables of other packages, too
    found = dict(dotted(uncommented(), wanted))
    assert found.keys() == wanted.keys()
    assert len(found) > 90
    unset = {name for name, default in wanted.items() if default in NONE}
    assert {name: found[name] for name in wanted.keys() - unset} == {
        name: default for name, default in wanted.items() if name not in unset
    }
    assert not [name for name in unset if found[name] in NONE]


@pytest.fixture
def file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    path = tmp_path / "bus.toml"
    monkeypatch.setenv("BUS_CONFIG", str(path))
    return path


def test_as_it_is_it_changes_nothing(file: Path) -> None:
    file.write_text("")
    empty = settings.load()
    file.write_text(FILE.read_text("utf-8"))
    loaded = settings.load()
    names = ("canvas", "microsoft-sds", "oneroster-csv", "webhook")
    assert loaded.products == {name: {} for name in names}
    assert loaded.producers == {"http": {}}
    assert loaded.model_copy(update={"products": {}, "producers": {}}) == empty
    assert list(plugins.misconfigured(loaded)) == []


def test_every_value_is_accepted(file: Path) -> None:
    text = FILE.read_text("utf-8")
    file.write_text(re.sub(r"^#(?=\[|[a-z0-9_]+ = )", "", text, flags=re.MULTILINE))
    loaded = settings.load()
    assert loaded.kafka.sasl_mechanism == "SCRAM-SHA-512"
    assert "frontoffice" in HttpSettings.model_validate(loaded.producers["http"]).clients
    for name, table in loaded.products.items():
        plugins.product(name).settings.model_validate(table)
