"""docs/exit-statuses.md names every command, and commands without a bus end as the page says."""

from __future__ import annotations

import re
from pathlib import Path

import pytest
from typer.testing import CliRunner

from bus.cli import app
from tests import surface

PAGE = Path(__file__).parents[2] / "docs" / "exit-statuses.md"


def rows() -> dict[str, tuple[str, str]]:
    """Return what the statuses 0 and 1 mean for each command on the page."""
    found = re.findall(r"^\| `(bus [^`]+)` \| (.*) \| (.*)\|$", PAGE.read_text("utf-8"), re.M)
    assert len({name for name, _, _ in found}) == len(found)
    return {name: (well.strip(), wrong.strip()) for name, well, wrong in found}


def test_each_command_has_a_line() -> None:
    there = {
        "bus bench" if path.startswith("bus bench ") else path for path in surface.command_paths()
    }
    assert rows().keys() == there


def test_each_line_says_what_0_means() -> None:
    assert all(well for well, _ in rows().values())


NEEDS_THE_BUS = (
    "status", "doctor", "schemas check", "schemas apply", "schemas list",
    "produce oneroster-csv one.zip", "consume canvas --out canvas --until-caught-up",
    "replay canvas", "replay resume x", "replay list", "replay show x", "replay pause x",
    "replay cancel x", "reconcile canvas --export canvas", "topics plan --apply",
    "deadletters list canvas", "deadletters show canvas schoolbus.student/0/7",
    "deadletters retry canvas --all", "deadletters discard canvas --all --why x",
    "quarantine list", "optouts add x --scope protected --decided-by court", "optouts end x",
    "optouts list --why x", "vendors plan --agreements .", "vendors apply --agreements .",
    "vendors list", "vendors revoke x --why y --yes", "vendors allow x",
)  # fmt: skip
NEEDS_NONE = (
    "down", "sample two.zip --students 1", "schemas docs --out docs", "topics plan",
    "produce http --new-key app", "vendors check --agreements .",
)  # fmt: skip
NOT_UNDERSTOOD = (
    "fly", "status --fast", "consume", "consume blackboard", "produce blackboard x",
    "produce oneroster-csv", "replay blackboard", "replay canvas --rate fast", "replay show",
    "reconcile", "optouts add x --scope protected", "deadletters list", "topics plan --students none", "sample",
    "sandbox", "sandbox math-app.toml --every soon", "vendors certify -- python reader.py",
    "vendors certify --agreement math-app.toml",
)  # fmt: skip


@pytest.fixture
def empty(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Return the current folder, which has an extract, while no bus is up."""
    monkeypatch.chdir(tmp_path)
    for name in ("BUS_HOME", "BUS_CONFIG", "BUS_KAFKA__BOOTSTRAP", "BUS_REGISTRY__URL"):
        monkeypatch.delenv(name, raising=False)
    (tmp_path / "one.zip").touch()
    return tmp_path


@pytest.mark.parametrize(
    ("line", "status"),
    [
        *((line, 1) for line in NEEDS_THE_BUS),
        *((line, 0) for line in NEEDS_NONE),
        *((line, 2) for line in NOT_UNDERSTOOD),
    ],
)
def test_a_command_with_no_bus_up(empty: Path, line: str, status: int) -> None:
    done = CliRunner().invoke(app, [*line.split(), "--json"])
    assert done.exit_code == status, done.output
    assert done.stdout.count("\n") == 1
    if status == 1 and line not in ("status", "doctor"):
        assert "is not up: run `bus up`" in done.stdout


@pytest.mark.parametrize(
    "line",
    [*NEEDS_THE_BUS, "down", "schemas docs --out docs", "topics plan"],  # others read no settings
)
def test_a_wrong_setting_ends_every_command_but_down(
    empty: Path, monkeypatch: pytest.MonkeyPatch, line: str
) -> None:
    (empty / "bus.toml").write_text("[kafka]\nbootstrp = 'x'\n")
    done = CliRunner().invoke(app, [*line.split(), "--json"])
    assert done.exit_code == (0 if line == "down" else 1)
    assert ("bootstrp" in done.stdout) == (line != "down")
