"""`bus vendors rotate-master-key` and `rekey`: what they print, and when they ask."""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest
from typer.testing import CliRunner

from bus.cli import app
from bus.vendors import crosswalk, master_key
from tests import golden_file
from tests.agreements import DAY
from tests.shapes import shape
from tests.unit.test_vendors_rekey import District


@pytest.fixture
def district(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> District:
    found = District(monkeypatch, tmp_path)
    monkeypatch.setattr("bus.vendors.applied.today", lambda: DAY)
    monkeypatch.setattr("bus.cli.vendor_keys.settings_of_reached", lambda: found.settings)
    monkeypatch.setattr("bus.vendors.disclosures.DisclosureWriter", MagicMock())
    return found


def run(*arguments: str, status: int = 0, given: str = "") -> str:
    done = CliRunner().invoke(app, ["vendors", *arguments], input=given)
    assert done.exit_code == status, done.output
    return done.output


def printed(*arguments: str) -> dict[str, Any]:
    found = json.loads(run(*arguments, "--json"))
    assert isinstance(found, dict)
    return found


def test_a_rotation_names_the_file_for_the_backup(district: District) -> None:
    file = str(master_key.path(district.settings).absolute())
    found = printed("rotate-master-key")
    assert found == {"file": file, "rewrapped": 3, "finished": True, "mount": False}
    lines = [f"json-master-key bus vendors rotate-master-key {line}" for line in shape(found)]
    golden_file.check("public-surface.txt", "json-master-key", lines)
    said = " ".join(run("rotate-master-key").split())
    assert "3 agreements have keys wrapped by the new master key" in said and "backup" in said


def test_a_rotation_says_which_file_to_mount(district: District, tmp_path: Path) -> None:
    new, present = tmp_path / "new.key", master_key.path(district.settings)
    step = ("rotate-master-key", "--new-key-file", str(new))
    assert "No key was wrapped again yet" in " ".join(run(*step).split())
    present.write_text(new.read_text())
    assert "once more: it has the new key alone" in " ".join(run(*step).split())
    present.write_text(new.read_text())
    assert printed(*step) == {
        "file": str(new),
        "rewrapped": 0,
        "finished": True,
        "mount": False,
    }


def test_no_key_is_printed(district: District, tmp_path: Path) -> None:
    new, file = tmp_path / "new.key", tmp_path / "private" / "c.csv"
    said = run("rotate-master-key", "--new-key-file", str(new))
    keys = new.read_text().split()
    said += run("rotate-master-key") + run("rekey", "math-app", "--crosswalk", str(file), "--yes")
    keys += master_key.path(district.settings).read_text().split()
    assert len(keys) == 3 and not any(key in said for key in keys)
    rows = crosswalk.read(file) or set()
    assert rows and not any(id_ in said for _, *ids in rows for id_ in ids)


def test_a_rekey_asks_before_it_begins_but_not_before_it_continues(district: District) -> None:
    command = ("rekey", "math-app", "--crosswalk", str(district.file))
    assert "Change all ids of math-app?" in run(*command, given="n\n", status=1)
    assert district.applied["math-app"].next_key == b"" and not district.file.exists()
    run(*command, given="y\n")
    assert printed(*command) == {
        "name": "math-app",
        "agreements": ["math-2", "math-app"],
        "crosswalk": str(district.file),
        "ids": 6,
        "times": 1,
    }


def test_again_writes_a_lost_crosswalk(district: District) -> None:
    command = ("rekey", "math-app", "--crosswalk", str(district.file))
    run(*command, "--yes")
    written = district.file.read_bytes()
    district.file.unlink()
    assert printed(*command, "--again")["times"] == 1
    assert district.file.read_bytes() == written


def test_an_agreement_that_was_never_applied_has_no_ids(district: District) -> None:
    said = run("rekey", "math", "--crosswalk", str(district.file), "--yes", status=1)
    assert "no agreement math was applied" in said
