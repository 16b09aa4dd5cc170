"""The keys of `--json` output do not change by accident.

`tests/golden/public-surface.txt` lists them, and these tests compare the list with real output.
After an intended change, run with UPDATE_GOLDEN=1; see `tests/golden_file.py`. Where keys are data
(names of kinds, topics, tables), the file has a `*`.
"""

from __future__ import annotations

import base64
import json
import re
import shutil
import signal
from collections import defaultdict
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from bus.standard.kinds import schema_directory
from tests import golden_file, surface
from tests.integration.commands import Commands, until
from tests.shapes import Shape, with_what_was_empty
from tests.webhook_receiver import Receiver

FILE = "public-surface.txt"
SECRET = "whsec_" + base64.b64encode(b"a secret of 32 bytes for a test.").decode()
REFUSED = ("student-0000000", "student-0000001", "student-0000002")
DATA = {
    "bus consume": (".delivered",),
    "bus deadletters list": (".reasons", ".codes"),
    "bus deadletters show": (".record",),
    "bus demo": (
        ".day1.records",
        ".day2.records",
        ".day1.products",
        ".day2.products",
        ".rogue.deadLetters",
    ),
    "bus produce oneroster-csv": (
        ".records",
        ".putOff",
        ".differences[].fields",
        ".extracts[].records",
        ".extracts[].putOff",
    ),
    "bus reconcile": (".tables", ".repaired.delivered"),
    "bus replay compare": (".tables",),
    "bus replay list": (".replays[].delivered",),
    "bus replay run": (".delivered", ".read", ".sample", ".sample.*"),
    "bus replay resume": (".delivered",),
    "bus replay show": (".delivered",),
    "bus status": (".groups", ".topics", ".running"),
    "bus topics plan": (".changed", ".changed.*"),
    "bus sandbox": (".environment", ".topics"),
    "bus vendors apply": (".vendors", ".vendors.*.topics"),
    "bus vendors certificate": (".deletion.topics",),
    "bus vendors contracts": (".files",),
    "bus vendors delete": (".deletion.topics",),
    "bus vendors show": (".agreement.share.why",),
    "bus vendors disclosures": (".disclosures[].fields", ".periods[].fields"),
    "bus vendors held": (".categories", ".students[].fields"),
}
"""Paths of objects whose keys are data."""
PLAYED = (
    "bus demo",
    "bus sandbox",
    "bus vendors certify",
    "bus vendors rotate",
    "bus vendors rotate-master-key",
)
"""Commands that other tests cover, because they take long, need a secure bus, or would change the
master key of the bus that all tests share."""


class Seen:
    """Runs commands and records the shape of their output."""

    def __init__(self, commands: Commands) -> None:
        self._commands = commands
        self._shapes: defaultdict[str, Shape] = defaultdict(Shape)

    def run(self, command: str, *arguments: str, status: int = 0, shown: str = "") -> Any:
        """Run `bus COMMAND ARGUMENTS --json`; return what it printed."""
        found = self._commands.run(*command.split(), *arguments, status=status)
        self.add(f"bus {shown or command}", found)
        return found

    def add(self, command: str, found: Any) -> None:
        """Record what a command printed."""
        if command not in self._shapes:
            self._shapes[command] = Shape(DATA.get(command, ()))
        self._shapes[command].add(found)

    def lines(self) -> list[str]:
        """Return the recorded lines, such as `json bus consume .product: string`."""
        return [
            f"json {command} {line}"
            for command, shape in self._shapes.items()
            for line in shape.lines()
        ]

    @property
    def commands(self) -> set[str]:
        """The commands that were run."""
        return set(self._shapes)


@pytest.mark.longest
@pytest.mark.embedded
def test_the_keys_of_json(commands: Commands) -> None:
    seen = Seen(commands)
    _standard(seen, commands)
    _extracts(seen, commands)
    out = str(commands.cwd / "canvas")
    seen.run("consume", "canvas", "--out", out, "--until-caught-up")
    seen.run("status")
    seen.run("doctor")
    _dead_letters(seen, commands)
    _opt_outs(seen)
    _replays(seen, commands, out)
    _vendors(seen, commands)
    _without_a_bus(seen, commands)
    asked = {name for name in surface.command_paths() if not name.startswith("bus bench")}
    assert seen.commands | set(PLAYED) == asked, "each command with --json must be looked at"
    check("json", seen.lines())


def check(section: str, lines: list[str]) -> None:
    """Compare the keys of JSON output with the golden file."""
    held = golden_file.held(FILE, section)
    golden_file.check(FILE, section, with_what_was_empty(held, lines))


def _standard(seen: Seen, commands: Commands) -> None:
    seen.run("up")
    seen.run("schemas check")
    seen.run("schemas apply")
    seen.run("schemas list")
    seen.run("schemas docs", "--out", str(commands.cwd / "standard"))
    altered = commands.cwd / "altered"
    shutil.copytree(schema_directory(), altered)
    student = altered / "student.avsc"
    schema = json.loads(student.read_text("utf-8"))
    schema["fields"] = [field for field in schema["fields"] if field["name"] != "familyName"]
    student.write_text(json.dumps(schema), "utf-8")
    seen.run("schemas check", "--schemas", str(altered), status=1)
    seen.run("topics plan", "--attendance-per-day", "100")
    commands.variables["BUS_RETENTION__HISTORY_DAYS"] = "400"
    seen.run("topics plan", "--apply")
    del commands.variables["BUS_RETENTION__HISTORY_DAYS"]


def _extracts(seen: Seen, commands: Commands) -> None:
    """Publish two days; the second has rows with faults, and a row too short to have an id."""
    days = [commands.cwd / f"day{number}" for number in (1, 2)]
    for number, folder in enumerate(days, 1):
        more = ("--students", "60", "--day", str(number))
        seen.run("sample", str(folder), *more)
    seen.run("produce oneroster-csv", str(days[0]))
    with (days[1] / "users.csv").open("a", encoding="utf-8") as users:
        users.write("rubbish\n")
    more = ("--dry-run", "--differences", "3")
    seen.run("produce oneroster-csv", str(days[1]), *more)
    seen.run("produce oneroster-csv", str(days[1]), "--allow-mass-withdrawal")
    faults = seen.run("quarantine list")["faults"]
    assert faults

    drop = commands.cwd / "drop"
    drop.mkdir()
    watching = commands.start("produce", "oneroster-csv", str(drop), "--watch")
    try:
        shutil.make_archive(str(commands.cwd / "day1"), "zip", days[0])
        shutil.move(commands.cwd / "day1.zip", drop / "day1.zip")
        until(lambda: (drop / "taken" / "day1.zip").exists(), "the extract taken")
        (drop / "broken.zip").write_bytes(b"not a zip")
        until(lambda: (drop / "refused" / "broken.zip").exists(), "the broken one refused")
    finally:
        watching.send_signal(signal.SIGTERM)
        printed, log = watching.communicate(timeout=60)
    assert watching.returncode == 0, log
    seen.add("bus produce oneroster-csv", json.loads(printed))

    made = seen.run("produce http", "--new-key", "app")
    digest = re.search(r'key_sha256 = "(\w+)"', made["toml"])
    assert digest
    commands.variables["BUS_PRODUCERS__HTTP__CLIENTS__APP__KEY_SHA256"] = digest[1]
    with commands.running("produce", "http", "--port", "0") as service:
        assert service.stdout is not None
        seen.add("bus produce http", json.loads(service.stdout.readline()))


def _dead_letters(seen: Seen, commands: Commands) -> None:
    """A vendor refuses three students."""
    commands.variables["BUS_PRODUCTS__WEBHOOK__SECRET"] = SECRET
    with Receiver(SECRET) as vendor:
        vendor.answer = lambda event: 422 if event.data["sourcedId"] in REFUSED else 204
        seen.run("consume", "webhook", "--url", vendor.url, "--until-caught-up")
        found = seen.run("deadletters list", "webhook")["deadLetters"]
        place = found[0]["place"]
        seen.run("deadletters show", "webhook", place)
        seen.run("deadletters retry", "webhook", place, "--url", vendor.url, status=1)
        seen.run("deadletters discard", "webhook", "--all", "--why", "a test")
        seen.run("deadletters list", "webhook", "--all")


def _opt_outs(seen: Seen) -> None:
    """Enter, list and end two opt-outs, so that each field has a value once."""
    options_of_decision = ("--decided-by", "parent")
    one = ("--scope", "vendor", "--vendor", "Acme", "--from", "2026-11-01")
    other = ("--scope", "purpose", "--purpose", "research", "--until", "2027-06-30")
    entered = [
        seen.run("optouts add", "student-0000001", *options, *options_of_decision)["optOut"]
        for options in (one, other)
    ]
    seen.run("optouts list", "--why", "a test")
    for opt_out in entered:
        seen.run("optouts end", opt_out["sourcedId"])


def _replays(seen: Seen, commands: Commands, out: str) -> None:
    """Run a replay to its end; pause, resume and cancel another; then a reconcile and a repair."""
    seen.run("replay", "canvas", "--dry-run", "--into", "other", shown="replay run")
    one, other = (str(commands.cwd / name) for name in ("one", "other"))
    seen.run("replay", "canvas", "--into", one, shown="replay run")
    seen.run("replay", "canvas", "--into", other, "--kind", "org", shown="replay run")
    seen.run("replay compare", "canvas", one, other)

    slow = commands.start("replay", "canvas", "--into", f"{one}-slow", "--rate", "20")

    def begun() -> Any:
        all_ = seen.run("replay list")["replays"]
        return [replay for replay in all_ if replay["rate"] == 20]

    (replay,) = until(begun, "the slow replay")
    seen.run("replay pause", replay["id"])
    printed, log = slow.communicate(timeout=60)
    assert slow.returncode == 0, log
    seen.add("bus replay run", json.loads(printed))
    going = commands.start("replay", "resume", replay["id"])
    until(lambda: commands.run("replay", "show", replay["id"])["status"] == "running", "it goes on")
    going.send_signal(signal.SIGTERM)
    printed, log = going.communicate(timeout=60)
    assert going.returncode == 0, log
    seen.add("bus replay resume", json.loads(printed))
    seen.run("replay show", replay["id"])
    seen.run("replay cancel", replay["id"])

    seen.run("reconcile", "canvas", "--export", out)
    lacks = commands.cwd / "lacks"
    shutil.copytree(other, lacks)
    seen.run("reconcile", "canvas", "--export", str(lacks), "--repair", "--out", out)


def _vendors(seen: Seen, commands: Commands) -> None:
    """Apply the example agreements, and revoke one."""
    shutil.copytree(
        Path(__file__).parents[2] / "deploy" / "agreements", commands.cwd / "agreements"
    )
    seen.run("vendors plan")
    seen.run("vendors apply")
    seen.run("vendors plan")
    seen.run("vendors list")
    seen.run("vendors show", "math-app")
    seen.run("vendors contracts", "math-app", "--out", str(commands.cwd / "contracts"))
    with commands.running("vendors", "gate") as gate:
        assert gate.stdout is not None
        seen.add("bus vendors gate", json.loads(gate.stdout.readline()))
    seen.run("optouts none")
    seen.run("vendors run", "--until-caught-up")
    why = ("--why", "a test")
    day = datetime.now(UTC).date().isoformat()
    private = commands.cwd / "private"
    private.mkdir(mode=0o700)
    seen.run("vendors rekey", "reading-study", "--crosswalk", str(private / "new-ids.csv"), "--yes")
    seen.run("vendors disclosures", "--vendor", "math-app", *why)
    seen.run("vendors disclosures", "--student", "student-0000001", *why)
    seen.run("vendors disclosures", "--accesses")
    seen.run("vendors held", "library", "--at", day, *why)
    seen.run("vendors verify")
    seen.run("vendors erase", "--student", "student-0000001", *why)
    seen.run("vendors allow", "math-app")
    seen.run("vendors revoke", "library", "--why", "a test", "--yes")
    seen.run("vendors list")
    seen.run("vendors delete", "library", "--early", *why, "--yes")
    seen.run("vendors certificate", "library")
    seen.run("vendors attest", "library", "--by", "the vendor's officer", "--on", day)
    seen.run("vendors certificate", "library")
    seen.run("vendors list")
    seen.run("vendors check")


def _without_a_bus(seen: Seen, commands: Commands) -> None:
    """Run commands in an empty home."""
    commands.variables["BUS_HOME"] = str(commands.cwd / "empty")
    seen.run("status", status=1)
    seen.run("down")
