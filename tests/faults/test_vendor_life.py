"""Three vendors with random agreements, while a district changes at random and parts are killed.

Every sensitive value of the district is a unique string. Each check covers four rules:

* No byte that a vendor can read is a part of such a string that its agreement does not share.
* No two vendors have a value in common, unless both agreements include it.
* The last states are those that a checker computes from the agreement and the district alone.
* No older state of a record follows a newer one.

At the end, the logs, the texts of errors and the answers of the gate are searched too.

`Life` has the steps, and `WatchedVendor` the checks.
"""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import nullcontext
from typing import Any

import pytest

from bus.standard.kinds import Record
from bus.vendors.outbox import Outbox
from bus.vendors.outbox_rows import OutgoingBatch
from bus.vendors.runner import Runner
from bus.vendors.scope import Scope
from tests.faults.conftest import Findings
from tests.faults.vendor_life import Life
from tests.integration.commands import Commands
from tests.integration.conftest import Bus


@pytest.fixture
def shards() -> int:
    """The number of shards of the projection."""
    return 1


@pytest.fixture
def life(
    bus: Bus, commands: Commands, rng: random.Random, long: bool, shards: int
) -> Iterator[Life]:
    """A district with three vendors. With several shards, two instances share them."""
    commands.divide(shards)
    found = Life(
        commands, rng, 300 if long else 50, home=bus.home, instances=1 if shards == 1 else 2
    )
    try:
        yield found
    finally:
        found.projector.kill()


def tell(life: Life, findings: Findings, what: str) -> None:
    """Search the logs, the texts of errors and the gate's answers at the end, and report."""
    answers, logged = life.gate_shows_only_their_own(), life.nothing_is_logged()
    kills = ", ".join(f"{number} of {part}" for part, number in sorted(life.kills.items()))
    findings.add(
        f"canaries, {what}",
        f"{life.changes:,} changes for 3 vendors; kill -9: {kills} "
        f"({life.unsent} with messages still to be sent); held by a guard {life.held} times; "
        f"a revocation, followed after {life.stopped_after:.1f} s",
        f"{life.checks} checks of {life.checked:,} messages: no value outside of its agreement, "
        f"none shared, none out of order, equal to the checker; {logged:,} bytes of logs and "
        f"{answers} answers of the gate without one",
    )


INSTANCES = {1: "one instance", 2: "two instances"}
SHARDS = pytest.mark.parametrize("shards", [1, 2], ids=INSTANCES.values())


@SHARDS
@pytest.mark.longest
def test_a_life(life: Life, findings: Findings) -> None:
    life.agree("alpha", life.drawn("alpha"), schools=("s1",), grades=(), classes=())
    life.begin()
    with life.beside(life.kill_projector):
        life.day()
    life.opt_out_after_a_change()
    life.check()
    life.narrow("beta")
    life.tell("vendors", "apply")
    with life.beside(lambda: life.kill_part("kafka")):
        life.day()
    life.mass_move()
    life.check(holds="alpha")
    life.revoke("gamma")
    life.widen("beta")
    life.tell("vendors", "apply")
    with life.beside(lambda: life.kill_part("registry")):
        life.end_an_opt_out()
        life.day()
    life.check()
    life.texts_of_errors()
    tell(life, findings, f"a short life, {INSTANCES[life.instances]}")


@SHARDS
@pytest.mark.long
def test_a_long_life(life: Life, findings: Findings) -> None:
    """Thirty random steps with kills, and then 500 changes a second with decisions and kills."""
    life.agree("alpha", life.drawn("alpha"), schools=("s1",), grades=(), classes=())
    life.begin()
    for _ in range(10):
        for _ in range(3):
            step, fault = life.rng.choice(life.steps), life.rng.choice(life.faults)
            # That step stops the projection itself, and no other step may start it then.
            beside = nullcontext() if step == life.opt_out_after_a_change else life.beside(fault)
            with beside:
                step()
        life.check()
    life.mass_move()
    life.check()
    with life.beside(lambda: life.trouble(60)):
        # Kills stop the producer for some seconds, so this gives 500 a second on average.
        rate = life.rush(60, rate=570)
    life.check()
    life.revoke("gamma")
    life.check()
    life.texts_of_errors()
    tell(
        life,
        findings,
        f"a long life, {INSTANCES[life.instances]}, {rate:,.0f} changes a second for a minute",
    )


# ---- the checks find a defect --------------------------------------------------------------------


def a_field_too_many(patch: pytest.MonkeyPatch) -> None:
    """Make the projection copy a field that is not shared into a shared field."""
    original = Scope.project

    def leaking(self: Scope, kind: str, found: list[Record], *more: object) -> object:
        seen = original(self, kind, found, *more)  # type: ignore[arg-type]
        phones = [one.get("phone") for one in found]
        return seen | {"givenName": phones} if kind == "student" else seen

    patch.setattr(Scope, "project", leaking)


def older_after_newer(patch: pytest.MonkeyPatch) -> None:
    """The outbox sends the state of a record before the last one again, and then the last one."""
    original = Outbox._produce
    last: dict[tuple[str, str], tuple[OutgoingBatch, Any]] = {}

    def repeating(self: Outbox, batch: OutgoingBatch, shared: Any) -> None:
        original(self, batch, shared)
        for at, key in enumerate(batch.keys):
            one, before = batch.part([at]), last.get((batch.topic, key))
            if one.values != [None] and before is not None:
                original(self, *before)
                original(self, one, shared)
            last[batch.topic, key] = one, shared

    patch.setattr(Outbox, "_produce", repeating)


@pytest.mark.parametrize(
    ("defect", "noticed"),
    [
        (None, ""),
        (a_field_too_many, "outside of its scope"),
        (older_after_newer, "older after newer"),
    ],
)
def test_a_defect_is_noticed(
    life: Life,
    findings: Findings,
    monkeypatch: pytest.MonkeyPatch,
    defect: Callable[[pytest.MonkeyPatch], None] | None,
    noticed: str,
) -> None:
    """Run the projection in this process, so that the test can build in the defect."""
    for name in life.vendors:
        life.widen(name)
    life.begin()
    life.projector.kill()
    if defect is not None:
        defect(monkeypatch)
    runner = Runner(life.commands.settings)
    runner.run(until_caught_up=True)
    life.district.some_changes(len(life.district.rows))
    life.publish()
    runner.run(until_caught_up=True)
    if defect is None:
        life.look()
    else:
        with pytest.raises(AssertionError, match=noticed):
            life.look()
    findings.add("control: canaries", f"defect: {noticed or 'none'}", "noticed" if noticed else "-")
