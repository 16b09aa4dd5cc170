"""Status 1 if a command works but finds a problem, as docs/exit-statuses.md says."""

from __future__ import annotations

import base64
import zipfile
from pathlib import Path

import pytest

from bus.demo.sample import District
from tests.integration.commands import Commands
from tests.webhook_receiver import Receiver

SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes for a test.").decode()
DISTRICT = District(seed=4, students=20)


@pytest.fixture
def extract(commands: Commands) -> Path:
    """The first day of a small district."""
    return DISTRICT.write(commands.cwd / "day-1.zip", 1)


def test_a_product_that_differs(commands: Commands, extract: Path) -> None:
    commands.run("produce", "oneroster-csv", str(extract))
    arguments = ("consume", "canvas", "--out", "canvas", "--until-caught-up")
    commands.run(*arguments)
    assert commands.run("status")["topics"]
    commands.run("reconcile", "canvas", "--export", "canvas")
    commands.run("replay", "canvas", "--into", "orgs", "--entity", "org")
    found = commands.run("reconcile", "canvas", "--export", "orgs", status=1)
    assert found["differences"]
    commands.run("replay", "compare", "canvas", "canvas", "orgs")
    commands.run("reconcile", "canvas", "--export", "orgs", "--repair", "--out", "canvas")


def test_a_file_that_cannot_be_read(commands: Commands, extract: Path) -> None:
    damaged = commands.cwd / "damaged.zip"
    with zipfile.ZipFile(extract) as whole, zipfile.ZipFile(damaged, "w") as made:
        for name in whole.namelist():
            made.writestr(name, b"no header\n" if name == "users.csv" else whole.read(name))
    found = commands.run("produce", "oneroster-csv", str(damaged), status=1)
    assert found["records"]["org"]["created"] > 0  # the other files are published
    assert found["records"]["student"]["created"] == 0
    commands.run("produce", "oneroster-csv", str(extract))


def test_a_product_that_takes_nothing(commands: Commands, extract: Path) -> None:
    orgs = commands.cwd / "orgs"  # few, as many refusals stop the consumer sooner
    orgs.mkdir()
    with zipfile.ZipFile(extract) as whole:
        whole.extract("orgs.csv", orgs)
    commands.run("produce", "oneroster-csv", str(orgs))
    commands.variables["BUS_PRODUCTS__WEBHOOK__SECRET"] = SECRET
    with Receiver(SECRET) as vendor:
        vendor.answer = lambda _: 422
        arguments = ("consume", "webhook", "--url", vendor.url, "--until-caught-up")
        found = commands.run(*arguments, status=1)
        assert "error" not in found, found
        assert found["deadLettered"] and not sum(found["delivered"].values())
        commands.run(*arguments)  # nothing is new, so there is no problem
        retry = ("deadletters", "retry", "webhook", "--all", "--url", vendor.url)
        assert commands.run(*retry, status=1)["failed"]
        vendor.answer = lambda _: 204
        assert commands.run(*retry)["failed"] == 0
