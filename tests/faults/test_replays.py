"""Kafka is killed in the middle of replays: they wait, and continue where they stopped.

The processes of the replays stay alive, so no event may arrive twice. They deliver what a dry run
announced before.
"""

from __future__ import annotations

import random
from pathlib import Path

from tests import canvas_model
from tests.faults.conftest import Findings
from tests.faults.killing import LONGEST, KilledCommand, ready
from tests.faults.published import DISTRICT, SECRET, Published
from tests.faults.test_kills import kill
from tests.integration.commands import Commands, until
from tests.integration.conftest import Bus
from tests.webhook_receiver import Receiver

BEFORE_KILL = 60
"""How many events a vendor has received when Kafka is killed."""
RATE = "80/s"


def test_replays_survive_a_restart_of_kafka(
    bus: Bus, commands: Commands, rng: random.Random, findings: Findings, turn: int
) -> None:
    command = KilledCommand(commands, rng)
    commands.variables |= ready(commands.variables, SECRET)
    canvas = commands.cwd / "canvas"
    for day in (1, 2):
        path = DISTRICT.write(commands.cwd / f"{day}.zip", day)
        commands.run("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
        commands.run("consume", "canvas", "--out", str(canvas), "--until-caught-up")
    before, state_before = zips(canvas), canvas_model.apply(zips(canvas))

    with Receiver(SECRET) as vendor:
        replays = {
            "canvas": ("replay", "canvas", "--out", str(canvas), "--rate", RATE),
            "webhook": ("replay", "webhook", "--url", vendor.url, "--rate", RATE),
        }
        plans = {name: commands.run(*how, "--dry-run") for name, how in replays.items()}
        processes = [command.start(*how) for how in replays.values()]
        try:
            until(
                lambda: len(vendor.accepted) >= BEFORE_KILL and len(zips(canvas)) > len(before),
                "both replays have begun",
            )
            kill(bus.home, "kafka", rng)
            received_before_kill = len(vendor.accepted)
            statuses = [process.wait(LONGEST) for process in processes]
        finally:
            for process in processes:
                process.kill()
                process.communicate()
        events = list(vendor.accepted)

    assert statuses == [0, 0]
    for entry in commands.run("replay", "list")["replays"]:
        plan = plans[entry["product"]]
        assert (entry["status"], entry["share"], entry["left_out"]) == ("done", 1.0, 0)
        assert entry["delivered"] == plan["delivered"]
    published = Published.of(commands.settings)
    published.assert_received(events)
    assert len(events) == len({event.id for event in events}), "received twice"
    assert received_before_kill < len(events), "the replay ended before Kafka was killed"
    assert canvas_model.apply(zips(canvas)) == state_before
    findings.add(
        "kill -9: Kafka, in the middle of replays",
        f"when a vendor had {received_before_kill} of {len(events)} events",
        "two replays continued without help; nothing lost, nothing twice",
    )


def zips(folder: Path) -> list[Path]:
    """Return the zips that were delivered, in order."""
    return sorted(folder.glob("*.zip"))
