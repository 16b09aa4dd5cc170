"""Runs a sandbox: every few seconds, it plays a new day of the made-up district."""

from __future__ import annotations

import random
import threading
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass

from bus.errors import RetryLater, Stop
from bus.sandbox.daily_changes import DailyChanges
from bus.sandbox.made_up_district import Key, made_for
from bus.sandbox.vendor_bus import VendorBus
from bus.vendors.applied import today
from bus.vendors.rollout import VendorAccess
from bus.vendors.runner import Runner

FIVE_LINES = """\
from bus import subscribe

for event in subscribe({kinds}, agreement="{agreement}", group="reader"):
    if event.record is None:
        print("delete", event.kind, event.key)
    else:
        print("store", event.kind, event.record)
"""


@dataclass(frozen=True, slots=True)
class SandboxStart:
    """What a vendor needs to read a sandbox.

    agreement:  the name in the vendor's topics.
    access:     the topics, the group prefix and the addresses.
    students:   the number of students whom the roster puts into the agreement.
    """

    agreement: str
    access: VendorAccess
    students: int

    @property
    def variables(self) -> Mapping[str, str]:
        """The environment variables with which a program finds the sandbox."""
        return {
            "BUS_KAFKA__BOOTSTRAP": self.access.bootstrap,
            "BUS_REGISTRY__URL": self.access.registry,
            "BUS_TOPIC_PREFIX": "schoolbus",
        }

    @property
    def program(self) -> str:
        """The five lines of Python that read everything."""
        kinds = ", ".join(f'"{kind}"' for kind in self.access.topics)
        return FIVE_LINES.format(kinds=kinds, agreement=self.agreement)


def started(bus: VendorBus, sections: int = 4) -> SandboxStart:
    """Publish the district unless an earlier run has done so; apply and project the agreement.

    sections: the size of a new district: see `bus.sandbox.made_up_district.made_for`.

    Raises `Stop` if an earlier run made the district for an agreement with other schools or
    classes.
    """
    agreement = bus.agreement
    if not bus.district.records:
        bus.district.records = made_for(agreement, today(), sections).records
        bus.publish(bus.district.records)
    elif missing := bus.district.lacks(agreement):
        raise Stop(
            f"the district in {bus.settings.home} was made before the agreement named "
            f"{', '.join(missing)}; delete this folder, or name another one with --home"
        )
    access = bus.apply(agreement)
    bus.project()
    return SandboxStart(agreement.name, access, len(bus.district.roster(bus.scope)))


def live(
    bus: VendorBus,
    stopping: threading.Event,
    every: float,
    note: Callable[[str], None],
) -> None:
    """Let days pass until `stopping` is set, and keep the vendor's topics current.

    every: the length of a day in seconds; 0: nothing changes.
    note:  called with a line for each day.

    Raises `Stop` if the projection must stop.
    """
    days = DailyChanges(bus.district, bus.scope, random.Random())
    waiting: list[Key] = []
    with projected(bus, stopping):
        while not stopping.wait(every or None):
            waiting += days.next_day(today())
            try:
                bus.publish(waiting)
            except RetryLater as error:
                note(f"{error}; the changes of this day come with the next one")
                continue
            note(f"a day has passed: {len(set(waiting))} records of the district have changed")
            waiting = []


@contextmanager
def projected(bus: VendorBus, stopping: threading.Event) -> Iterator[None]:
    """Run the projection on a thread during the block.

    stopping: is set if the projection fails. Its error is raised when the block ends.
    """
    runner = Runner(bus.settings)
    failed: list[BaseException] = []

    def run() -> None:
        try:
            runner.run()
        except BaseException as error:
            failed.append(error)
            stopping.set()

    thread = threading.Thread(target=run, name="projection")
    thread.start()
    try:
        yield
    finally:
        runner.stop()
        thread.join()
    if failed:
        raise failed[0]
