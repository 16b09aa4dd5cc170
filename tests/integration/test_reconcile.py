"""Reconcile a product with the current state, and compare a new translation with the old one."""

from __future__ import annotations

from pathlib import Path

from bus.demo.sample import District
from tests import canvas_model
from tests.integration.commands import Commands

DISTRICT = District(seed=4, students=20)


def test_a_product_is_reconciled_and_repaired(commands: Commands) -> None:
    """A zip was lost on the way to Canvas; an export of Canvas shows what is missing."""
    canvas = commands.cwd / "canvas"
    arguments = ("consume", "canvas", "--out", str(canvas), "--until-caught-up")
    for day in (1, 2):
        path = District(seed=6, students=60, change=0.3).write(commands.cwd / f"{day}.zip", day)
        commands.run("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
        commands.run(*arguments)
    same = commands.run("reconcile", "canvas", "--export", str(canvas))
    assert same["differences"] == []
    first, second = sorted(canvas.glob("*.zip"))
    lost = second.rename(commands.cwd / "lost.zip")
    found = commands.run(
        "reconcile", "canvas", "--export", str(canvas), "--repair", "--out", str(canvas)
    )
    assert {one["what"] for one in found["differences"]} == {"missing", "extra", "different"}
    assert found["repaired"]["status"] == "done"
    again = commands.run("reconcile", "canvas", "--export", str(canvas))
    assert again["differences"] == []
    right = canvas_model.apply([first, lost])
    mended = canvas_model.apply(sorted(canvas.glob("*.zip")))
    assert canvas_model.rosters(mended) == canvas_model.rosters(right)


def test_a_shadow_is_compared_with_what_went_out(commands: Commands) -> None:
    path = DISTRICT.write(commands.cwd / "1.zip", 1)
    commands.run("produce", "oneroster-csv", str(path))
    old, new = commands.cwd / "old", commands.cwd / "new"
    for folder in (old, new):
        commands.run("replay", "canvas", "--into", str(folder))
    found = commands.run("replay", "compare", "canvas", str(old), str(new))
    assert found["differences"] == []
    assert found["tables"]["users.csv"]["same"] > 20
    refused = commands.run("replay", "compare", "canvas", str(old), str(Path.cwd()), status=1)
    assert "has none of" in refused["error"]


def test_what_vendors_would_receive_is_looked_at_in_a_folder(commands: Commands) -> None:
    path = DISTRICT.write(commands.cwd / "1.zip", 1)
    commands.run("produce", "oneroster-csv", str(path))
    old, new = commands.cwd / "old", commands.cwd / "new"
    for folder in (old, new):
        commands.run("replay", "webhook", "--into", str(folder), "--kind", "student")
    assert len((old / "events.ndjson").read_text("utf-8").splitlines()) == 20
    found = commands.run("replay", "compare", "webhook", str(old), str(new))
    assert found["tables"]["events"] == {"same": 20, "missing": 0, "extra": 0, "different": 0}
    refused = commands.run("reconcile", "webhook", "--export", str(old), status=1)
    assert "takes requests" in refused["error"]
