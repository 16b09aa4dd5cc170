"""Vendors whose topics are kept up to date while an SIS POSTs attendance (`bus.bench.traffic`)."""

from __future__ import annotations

import time
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import closing, contextmanager
from dataclasses import dataclass

from bus import local
from bus.bench.freshness_benchmark import WARM_UP, Freshness, freshness, warmed_up
from bus.bench.traffic import Traffic, enroll, new_client
from bus.bench.usage import Usage
from bus.bench.vendors_arrivals import Arrivals, VendorArrival
from bus.bench.vendors_district import VendorsDistrict, wait_until_written
from bus.demo.stage import first_line, wait_for
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.cloudevents import header
from bus.kafka.reader import scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.vendors import applied, master_key
from bus.vendors.pseudonyms import Pseudonyms, unwrapped

NAMES = tuple(f"live-{number}" for number in range(10))
BEFORE, DURING = 3.0, 20.0
"""Seconds of changes that arrive before a decision, and seconds of changes in total."""
QUIET = 3.0
"""Seconds without a message after which a vendor counts as cut off."""


@dataclass(frozen=True, slots=True)
class LiveVendors:
    """Ten vendors with an agreement each, and attendance that flows to them."""

    district: VendorsDistrict
    traffic: Traffic
    arrivals: Arrivals

    def freshness(self, rate: int, seconds: float) -> Freshness:
        """Measure the delay of each change at each vendor."""
        there = self.traffic
        there.usage.forget()
        sent = there.send_new(rate, seconds + WARM_UP)
        ids = self._ids_by_event()
        measured = warmed_up(sent)
        arrived: dict[str, list[float]] = {event: [] for event in measured}
        for name in NAMES:
            pseudonym = self._pseudonym(name)
            wanted = {pseudonym(ids[event]): event for event in measured}
            found = self._when_there(name, wanted)
            for id_, event in wanted.items():
                arrived[event].append(found[id_][0].at)
        there.usage.look()
        return freshness(rate, sent, arrived, there.usage.used())

    def opt_out(self, rate: int, student: str) -> float:
        """Protect a student during changes. Return the seconds until all of it was deleted.

        They run from the start of the command to the last deletion at the last vendor. Raises
        `Stop` if a vendor receives something about the student afterwards, or keeps something.
        """
        began = self._during_changes(
            rate, "optouts", "add", student, "--scope", "protected", "--decided-by", "parent"
        )
        ids = self._attendance_of(student)
        last = began
        for name in NAMES:
            pseudonym, found = self._pseudonym(name), self.arrivals.of(name)
            for id_ in ids:
                if arrivals := found.get(pseudonym(id_)):
                    if not arrivals[-1].deletes:
                        raise Stop(f"{name} still has attendance of a student after the opt-out")
                    last = max(last, arrivals[-1].at)
        if last == began:
            raise Stop("no vendor had attendance of the student; measure with more seconds")
        return last - began

    def revocation(self, rate: int, name: str) -> float:
        """Revoke an agreement during changes. Return the seconds until nothing more arrived.

        They run from the start of the command to the last message. Raises `Stop` if the other
        vendors received nothing for longer than that.
        """
        began = self._during_changes(
            rate, "vendors", "revoke", name, "--why", "the benchmark is over", "--yes"
        )
        last = self.arrivals.last(name)
        others = min(self.arrivals.last(other) for other in NAMES if other != name)
        if others < last + QUIET:
            raise Stop(
                "the changes ended before the revocation took effect, so it was not measured; run "
                "the benchmark again on a machine that is less busy"
            )
        return max(0.0, last - began)

    def _during_changes(self, rate: int, *command: str) -> float:
        """Run a command while changes flow. Return when it began, after all messages arrived."""
        start = time.time()

        def act() -> float:
            wait_for(
                lambda: min(map(self.arrivals.last, NAMES)) > start, "the arrival of the changes"
            )
            time.sleep(BEFORE)
            began = time.time()
            self.district.stage.run(*command)
            return began

        with ThreadPoolExecutor(1) as pool:
            acting = pool.submit(act)
            self.traffic.send(rate, DURING)
            began = acting.result()
        wait_for(
            lambda: time.time() > QUIET + max(map(self.arrivals.last, NAMES)),
            "the last messages to vendors",
        )
        return began

    def _when_there(self, name: str, ids: Collection[str]) -> Mapping[str, Sequence[VendorArrival]]:
        """Return what has arrived under an agreement, when all these ids have."""

        def there() -> bool:
            found = self.arrivals.of(name)
            return all(id_ in found for id_ in ids)

        wait_for(there, "the delivery of the last changes", 0.5)
        return self.arrivals.of(name)

    def _ids_by_event(self) -> dict[str, str]:
        """Return the id of the attendance record of each event."""
        topic = topics.topic(self.district.settings, "attendance")
        return {
            header(message, "ce_id") or "": (message.key() or b"").decode()
            for message in scan(self.district.settings, topic)
        }

    def _attendance_of(self, student: str) -> set[str]:
        """Return the ids of a student's attendance records."""
        settings = self.district.settings
        decoder = Decoder("attendance", schema_lookup(settings))
        return {
            (message.key() or b"").decode()
            for message in scan(settings, topics.topic(settings, "attendance"))
            if decoder.decode(message.value())["studentSourcedId"] == student
        }

    def _pseudonym(self, name: str) -> Callable[[str], str]:
        settings = self.district.settings
        key = applied.read(settings)[name].wrapped_key
        return Pseudonyms(unwrapped(key, master_key.read(settings))).pseudonym


@contextmanager
def live_vendors(
    district: VendorsDistrict, progress: Callable[[str], None]
) -> Iterator[LiveVendors]:
    """Run the HTTP source and the projection for ten new vendors."""
    stage = district.stage
    key = new_client(stage)
    progress(f"writing the topics of {len(NAMES)} vendors")
    with district.agreed(NAMES):
        service = stage.start("http", "produce", "http", "--port", "0")
        projection = stage.start("projection", "vendors", "run")
        try:
            url = first_line(service)["url"]
            enroll(url, key)
            wait_until_written(district.settings, NAMES)
            usage = Usage(
                {
                    "HTTP source": service.pid,
                    "Kafka": local.status(stage.folder).running["kafka"].pid,
                    "projection": projection.pid,
                }
            )
            there = Traffic(stage, stage.folder, url, key, usage)
            with closing(Arrivals(district.settings, NAMES, "attendance")) as arrivals:
                yield LiveVendors(district, there, arrivals)
        finally:
            for process in (service, projection):
                process.terminate()
                process.wait(60)
