"""What a command prints when something goes wrong, and its exit status."""

from __future__ import annotations

import json
from importlib.metadata import version
from pathlib import Path

import pytest
import typer
from typer.testing import CliRunner

from bus.cli import app
from bus.cli.output import failures
from bus.errors import Stop


def reported(error: Exception, *, as_json: bool, capsys: pytest.CaptureFixture[str]) -> str:
    """Return what is printed for an error: the text on stderr, or the text in the JSON object."""
    with pytest.raises(typer.Exit) as ended, failures(as_json):
        raise error
    assert ended.value.exit_code == 1
    out, err = capsys.readouterr()
    if as_json:
        assert err == ""
        return str(json.loads(out)["error"])
    assert out == ""
    return err


@pytest.mark.parametrize("as_json", [True, False])
def test_what_the_bus_raises_is_reported_unchanged(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    assert "run [bus] up" in reported(Stop("run [bus] up"), as_json=as_json, capsys=capsys)


@pytest.mark.parametrize("as_json", [True, False])
def test_of_a_defect_the_place_is_reported_and_not_what_it_quotes(
    as_json: bool, capsys: pytest.CaptureFixture[str]
) -> None:
    text = reported(ValueError("could not convert 'Lovelace'"), as_json=as_json, capsys=capsys)
    assert "builtins.ValueError" in text
    assert "test_output.py" in "".join(text.split())
    assert "Lovelace" not in text


def test_a_closed_output_pipe_is_no_failure() -> None:
    with pytest.raises(BrokenPipeError), failures(json_wanted=False):
        raise BrokenPipeError


@pytest.mark.parametrize("as_json", [True, False])
def test_a_status_that_was_chosen_is_kept(as_json: bool) -> None:
    with pytest.raises(typer.Exit) as ended, failures(as_json):
        raise typer.Exit(3)
    assert ended.value.exit_code == 3


def test_what_the_machine_refuses_is_a_message(tmp_path: Path) -> None:
    nowhere = tmp_path / "nowhere" / "x.zip"
    done = CliRunner().invoke(app, ["sample", str(nowhere), "--students", "1", "--json"])
    assert done.exit_code == 1
    assert json.loads(done.stdout) == {"error": f"{nowhere}: No such file or directory"}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["consume", "nope"], "there is no product nope; installed products: canvas"),
        (["deadletters", "list", "nope"], "there is no product nope; installed products: canvas"),
        (["consume"], "Missing argument"),
        (["replay", "canvas", "--rate", "5/m"], "100 or 100/s"),
        (["replay", "canvas", "--rate", "-1"], "100 or 100/s"),
        (["consume", "canvas", "--http-port", "99999"], "65535"),
        (["produce", "nope"], "No such command"),
        (["produce", "oneroster-csv"], "Missing argument"),
        (["nope"], "No such command"),
        (["up", "--bogus"], "No such option"),
    ],
)
def test_wrong_use_is_status_2_and_one_object_where_that_is_asked_for(
    arguments: list[str], said: str
) -> None:
    done = CliRunner().invoke(app, [*arguments, "--json"])
    assert done.exit_code == 2
    assert said in json.loads(done.stdout)["error"]
    plain = CliRunner().invoke(app, arguments)
    assert plain.exit_code == 2
    assert plain.stdout == ""


def test_a_sources_help_is_about_the_source() -> None:
    said = CliRunner().invoke(app, ["produce", "oneroster-csv", "--help"]).stdout
    assert "--watch" in said
    assert "completion" not in said


def test_the_version_is_reported() -> None:
    answer = CliRunner().invoke(app, ["--version"])
    assert (answer.exit_code, answer.output) == (0, f"schoolbus {version('schoolbus')}\n")
