"""A made-up district on a bus, and what one vendor receives of it.

This module publishes records as a source does, applies the agreement, and runs the projection. It
uses the code of `bus vendors apply` and `bus vendors run`.
"""

from __future__ import annotations

from collections.abc import Iterable
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING

from bus.errors import Stop
from bus.ingest import ownership
from bus.kafka import topics
from bus.kafka.cloudevents import Change, now
from bus.kafka.reader import scan
from bus.kafka.transactions import Publisher
from bus.registry import subjects
from bus.registry.codec import Decoder
from bus.sandbox.made_up_district import Key, MadeUpDistrict
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import applied, rollout
from bus.vendors.agreement import Agreement
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.district_counts import CohortCounts
from bus.vendors.plan import plan
from bus.vendors.rollout import VendorAccess
from bus.vendors.runner import Runner
from bus.vendors.scope import Scope, compile_scope
from bus.vendors.vendor_schema import vendor_topic

if TYPE_CHECKING:
    from confluent_kafka import Message

SOURCE = "/sandbox"
"""The source of all records of a sandbox."""


def sandbox_settings(home: Path) -> Settings:
    """Return the settings of a sandbox's own bus, without bus.toml and the environment."""
    # `Settings(…)` reads bus.toml and the environment for all that is not given.
    return Settings.model_construct(home=home.absolute())


class VendorBus:
    """A made-up district on a bus that is up. Use it from one thread, in a `with` block.

    settings:  the bus.
    agreement: the fitted agreement; `apply` may replace it.
    district:  the district's records. It is empty until `publish` has been called, or holds what
               was published in an earlier run.
    """

    def __init__(self, settings: Settings, agreement: Agreement) -> None:
        self.settings = settings
        self.agreement = agreement
        self.district = MadeUpDistrict({})
        self._known: set[Key] = set()

    def __enter__(self) -> VendorBus:
        subjects.apply(self.settings)
        topics.ensure(
            self.settings,
            [*(topics.topic(self.settings, kind) for kind in KINDS), topics.vendors(self.settings)],
        )
        # The kinds include opt-outs, because no projection starts without a source of them.
        ownership.announce(self.settings, SOURCE, KINDS)
        ids = subjects.lookup(self.settings)
        self._publisher = Publisher(self.settings, SOURCE, ids, time=now())
        self.district = MadeUpDistrict(_published(self.settings))
        self._known = set(self.district.records)
        return self

    def __exit__(self, *_: object) -> None:
        self._publisher.close()

    @property
    def scope(self) -> Scope:
        """The scope of the agreement."""
        return compile_scope(self.agreement)

    def publish(self, keys: Iterable[Key]) -> None:
        """Publish the present states of records of the district, in one transaction.

        Raises `RetryLater` if Kafka does not answer. The call may be repeated.
        """
        order = {kind: number for number, kind in enumerate(KINDS)}
        wanted = sorted(set(keys), key=lambda key: (order[key[0]], key[1]))
        time = now()
        with self._publisher.transaction():
            for key in wanted:
                record = self.district.records[key]
                change: Change = "updated" if key in self._known else "created"
                if record["status"] != "active":
                    change = "withdrawn"
                self._publisher.publish_records(key[0], change, [record], time)
        self._known.update(wanted)

    def apply(self, agreement: Agreement) -> VendorAccess:
        """Apply an agreement, as `bus vendors apply` does; return what the vendor needs."""
        self.agreement = agreement
        changes = plan(
            [agreement],
            applied.read(self.settings),
            applied.today(),
            lambda changes: {name: CohortCounts() for name in changes},
        )
        with DisclosureWriter(self.settings) as record:
            found = rollout.apply(self.settings, changes, datetime.now(UTC), record)
        if agreement.name not in found:
            raise Stop(
                f"the agreement {agreement.name} was revoked or has ended in this sandbox; delete "
                "its folder, or name another one with --home"
            )
        return found[agreement.name]

    def project(self) -> None:
        """Bring the vendor's topics up to date.

        Raises `Stop` if the agreement is not projected.
        """
        outcome = Runner(self.settings).run(until_caught_up=True)
        if self.agreement.name not in outcome.agreements:
            raise Stop(f"the agreement {self.agreement.name} is not projected; see the log above")

    def received(self, kinds: Iterable[str]) -> dict[Key, Record]:
        """Return the last state of each record in the vendor's topics of some kinds.

        Deleted records are left out.
        """
        lookup = subjects.schema_lookup(self.settings)
        found: dict[Key, Record] = {}
        for kind in kinds:
            decoder = Decoder(kind, lookup, as_written=True)
            topic = vendor_topic(self.settings, self.agreement.name, kind)
            _take(found, kind, decoder, scan(self.settings, topic))
        return found


def _published(settings: Settings) -> dict[Key, Record]:
    """Return what an earlier run published."""
    lookup = subjects.schema_lookup(settings)
    found: dict[Key, Record] = {}
    for kind in KINDS:
        messages = scan(settings, topics.topic(settings, kind))
        _take(found, kind, Decoder(kind, lookup), messages)
    return found


def _take(
    found: dict[Key, Record], kind: str, decoder: Decoder, messages: Iterable[Message]
) -> None:
    """Put the last state of each record into `found`; leave deleted records out."""
    for message in messages:
        key, value = (kind, (message.key() or b"").decode()), message.value()
        if value is None:
            found.pop(key, None)
        else:
            found[key] = decoder.decode(value)
