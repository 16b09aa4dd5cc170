"""`bus demo` from its first scene to its last, on a smaller district."""

from __future__ import annotations

import json
import os
import subprocess
import sys
import zipfile
from pathlib import Path

import psutil
import pytest

from tests import sds_model
from tests.integration.test_public_surface import DATA, check
from tests.shapes import Shape


@pytest.mark.longest
@pytest.mark.embedded
def test_the_demo_reports_each_step_and_leaves_no_process(tmp_path: Path) -> None:
    env = {k: v for k, v in os.environ.items() if not k.upper().startswith("BUS_")}
    env["BUS_HOME"] = str(tmp_path / "home")
    done = subprocess.run(
        [sys.executable, "-m", "bus", "demo", "--students", "100", "--json"],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr
    reported = json.loads(done.stdout)
    shape = Shape(DATA["bus demo"])
    shape.add(reported)
    check("json-demo", [f"json-demo bus demo {line}" for line in shape.lines()])

    first, second = reported["day1"]["records"], reported["day2"]["records"]
    assert first["student"]["created"] == 100
    assert second["enrollment"]["quarantined"] == 1
    assert second["student"]["unchanged"] > 80
    assert set(reported["day2"]["products"]) == {"canvas", "microsoft-sds", "webhook"}
    assert reported["attendance"]["taken"] == 40
    assert reported["attendance"]["refused"] == [422, 401]
    agreement = reported["agreement"]
    assert 40 < agreement["students"] < 60  # one of two schools
    assert agreement["optOutMs"] > 0
    assert agreement["revokedSeconds"] > 0
    assert (agreement["notesAfter"], agreement["notesAfterReceived"]) == (10, 0)
    assert agreement["disclosures"] == 1
    assert reported["rogue"]["schema"] == "HTTP 409"
    assert reported["rogue"]["deadLetters"] == {"canvas": 1, "microsoft-sds": 1, "webhook": 1}

    folder = tmp_path / "home" / "demo"
    assert reported["folder"] == str(folder)
    zips = sorted((folder / "out" / "canvas").glob("*.zip"))
    assert len(zips) >= 2
    for path in zips:
        with zipfile.ZipFile(path) as batch:
            assert batch.testzip() is None
    assert sds_model.rosters(sds_model.load(folder / "out" / "microsoft-sds"))
    _, _, following = done.stderr.partition("Try next\n")
    went = subprocess.run(  # in a shell where BUS_HOME is exported
        ["sh", "-ec", following],
        cwd=tmp_path,
        env=env,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert went.returncode == 0, f"{following}\n{went.stdout}\n{went.stderr}"
    assert "1 dead letters of canvas" in went.stdout
    assert "stopped kafka and registry" in went.stdout
    left = [
        p.pid for p in psutil.process_iter(["cwd"]) if (p.info["cwd"] or "").startswith(str(folder))
    ]
    assert left == []
