"""Random changes, decisions and kills on a district with three vendors.

Everything goes through commands: `bus produce` for extracts, and `bus optouts` and `bus vendors` for
decisions. The projection runs in a separate process, which is killed.
"""

from __future__ import annotations

import json
import random
import re
import sqlite3
import threading
import time
from collections import Counter
from collections.abc import Callable, Collection, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass, field
from datetime import date
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from bus import local
from bus.errors import RetryLater
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.reader import Reader
from bus.local import process
from bus.vendors import shard
from bus.vendors.agreement import Agreement, Basis, parse
from bus.vendors.vendor_topics import possible_topics
from tests.faults.canaries import MadeUp, found_in, personal
from tests.faults.drawn_agreements import as_toml, drawn_deals, table
from tests.faults.killing import QUICK
from tests.faults.life_checks import gate_shows_only_their_own
from tests.faults.projector import Projector
from tests.faults.vendor_watch import FAILED, History, WatchedVendor, reach, share_no_value
from tests.integration.commands import PATIENCE, Commands, until
from tests.unit.test_vendor_projection import CATEGORIES

NAMES = ("alpha", "beta", "gamma")
HELD = re.compile(r"agreement (\w+): \d+ students would enter or leave at once")
OVER = re.compile(rb"the agreement does not hold any more")


@dataclass(slots=True)
class Life:
    """The district, its vendors, and counts of what happened.

    instances: how many instances of the projection there are.
    kills:    how many kills of which part.
    unsent:   after how many kills of the projection the outbox still had messages.
    checked:  how many messages of vendors were searched, at all checks together.
    checks:   how many checks there were.
    held:     how often a guard held students back.
    changes:  how many changes the producer published.
    never:    canaries that no vendor may have.
    opt_outs: the ids of opt-outs that were entered.
    stopped_after: how many seconds after `bus vendors revoke` the projection stopped.
    """

    commands: Commands
    rng: random.Random
    students: int
    home: Path
    instances: int = 1
    district: MadeUp = field(init=False)
    vendors: dict[str, WatchedVendor] = field(init=False)
    history: History = field(init=False)
    projector: Projector = field(init=False)
    kills: Counter[str] = field(default_factory=Counter)
    unsent: int = 0
    checked: int = 0
    checks: int = 0
    held: int = 0
    changes: int = 0
    stopped_after: float = 0.0
    never: set[str] = field(default_factory=set)
    opt_outs: list[str] = field(default_factory=list)
    _deals: dict[str, tuple[Agreement, str]] = field(default_factory=dict)
    _said: list[bytes] = field(default_factory=list)
    _read: int = 0
    _extracts: int = 0

    def __post_init__(self) -> None:
        # Kafka drops killed group members soon, and the log level is the most detailed one.
        self.commands.variables |= {
            "BUS_KAFKA__CLIENT": QUICK,
            "BUS_TELEMETRY__LOG_LEVEL": "debug",
            "BUS_TELEMETRY__LOG_FORMAT": "json",
        }
        self.district = MadeUp(self.rng, self.students, date.today())
        self.history = History(self.commands.settings)
        log = self.commands.cwd / "projector.log"
        self.projector = Projector(self.commands, log, self.instances)
        (self.commands.cwd / "agreements").mkdir()
        self.vendors = {}
        identifiers = ("pseudonyms", "pseudonyms", self.rng.choice(("pseudonyms", "real")))
        for name, deal, ids in zip(NAMES, drawn_deals(self.rng, 3), identifiers, strict=True):
            if name != "beta" and deal.basis is Basis.CONSENT:
                # Nobody consents in this district, and vendors without students show little.
                deal = deal.model_copy(update={"basis": Basis.SCHOOL_OFFICIAL})
            self.agree(name, deal, ids)

    # ---- commands ------------------------------------------------------------------------------

    def tell(self, *arguments: str, status: int | None = 0, secret: bool = False) -> str:
        """Run a command to its end, and return what it printed.

        status: the exit status that it must have; None: any.
        secret: its output may contain canaries, because the person has entered them. Only its log
                is searched.
        """
        done = self.commands.ended(*arguments)
        assert status in (None, done.returncode), f"{arguments}: {done.stdout}\n{done.stderr}"
        self._said.append(done.stderr.encode())
        if not secret or done.returncode != 0:
            self._said.append(done.stdout.encode())
        return done.stdout if done.returncode == 0 else ""

    def insist(self, *arguments: str) -> str:
        """Run a command until it succeeds, because a part of the bus may be down."""
        latest = time.monotonic() + PATIENCE
        while not (found := self.tell(*arguments, status=None, secret=True)):
            assert time.monotonic() < latest, f"{arguments}: {self._said[-2:]}"
            time.sleep(0.5)
        return found

    def publish(self) -> None:
        """Publish the extract of now."""
        self._extracts += 1
        path = self.district.write(self.commands.cwd / f"extract-{self._extracts}")
        line = ("produce", "oneroster-csv", str(path), "--allow-mass-withdrawal")
        records = json.loads(self.insist(*line))["records"].values()
        assert not any(one["quarantined"] for one in records)
        self.changes += sum(
            one[change] for one in records for change in ("created", "updated", "withdrawn")
        )

    def opt_out(self, student: str, scope: str = "protected", **more: str) -> None:
        """Enter an opt-out of a student."""
        extra = [part for name, value in more.items() for part in (f"--{name}", value)]
        line = ("optouts", "add", student, "--scope", scope, "--decided-by", "parent", *extra)
        self.opt_outs.append(json.loads(self.insist(*line))["optOut"]["sourcedId"])

    # ---- agreements ----------------------------------------------------------------------------

    def agree(self, name: str, deal: Agreement, identifiers: str = "", **students: Any) -> None:
        """Write an agreement's file; `bus vendors apply` applies it.

        identifiers: as the agreement has it; "": as before.
        """
        identifiers = identifiers or self._deals[name][1]
        if students:
            rules = deal.students.model_copy(update=students)
            deal = deal.model_copy(update={"students": rules})
        self._deals[name] = deal, identifiers
        found = table(deal, name, identifiers, self.district)
        path = self.commands.cwd / "agreements" / f"{name}.toml"
        path.write_text(as_toml(found))
        parsed = parse(name, found, str(path))
        if name in self.vendors:
            self.vendors[name].replace(parsed)
        else:
            self.vendors[name] = WatchedVendor(name, parsed)

    def drawn(self, name: str) -> Agreement:
        """Return an agreement as it was drawn, without the district's ids."""
        return self._deals[name][0]

    def narrow(self, name: str) -> None:
        """Take categories, single fields, a role and a grade out of an agreement."""
        deal = self._deals[name][0]
        kept = CATEGORIES[1:3]
        share = deal.share.model_copy(update={"categories": tuple(kept), "fields": ()})
        deal = deal.model_copy(update={"share": share, "roles": deal.roles[:1]})
        self.agree(name, deal, grades=("06",))

    def widen(self, name: str) -> None:
        """Put all categories, roles and students into an agreement."""
        deal = self._deals[name][0]
        share = deal.share.model_copy(update={"categories": tuple(CATEGORIES)})
        deal = deal.model_copy(update={"share": share, "roles": ("teacher", "guardian")})
        self.agree(name, deal, schools=(), grades=(), classes=())

    def redraw(self, name: str) -> None:
        """Replace an agreement by a random one with the same legal basis."""
        (deal,) = drawn_deals(self.rng, 1)
        self.agree(name, deal.model_copy(update={"basis": self._deals[name][0].basis}))

    @property
    def active(self) -> list[str]:
        """The vendors that were not revoked."""
        return [name for name, one in self.vendors.items() if not one.revoked]

    # ---- kills ---------------------------------------------------------------------------------

    @contextmanager
    def beside(self, action: Callable[[], None]) -> Iterator[None]:
        """Do something on another thread while the block runs, and wait for it."""
        failed: list[BaseException] = []

        def act() -> None:
            try:
                action()
            except BaseException as error:
                failed.append(error)

        thread = threading.Thread(target=act, name="fault")
        thread.start()
        try:
            yield
        finally:
            thread.join()
        if failed:
            raise failed[0]

    def kill_projector(self) -> None:
        """Kill an instance in the middle of its work, as soon as something was sent; restart it.

        If it sends nothing for some seconds, it is killed then.
        """
        settings, wanted = self.commands.settings, self.rng.randint(1, 60)
        names = [one for name in self.vendors for one in possible_topics(settings, name)]
        latest = time.monotonic() + self.rng.uniform(3, 6)
        with suppress(RetryLater), Reader(settings, FAILED) as reader:
            places = reader.places(names)
            before = sum(high for _, high in reader.marks(places).values())
            while time.monotonic() < latest:
                if sum(high for _, high in reader.marks(places).values()) >= before + wanted:
                    break
        self.projector.kill_one(self.rng)
        self.kills["projection"] += 1
        self.unsent += self._has_unsent()
        self.projector.start()

    def _has_unsent(self) -> bool:
        settings = self.commands.settings
        found = 0
        for path in shard.files(settings):
            with closing(sqlite3.connect(path, timeout=10)) as view, suppress(sqlite3.Error):
                found += view.execute("SELECT count(*) FROM outbox").fetchone()[0]
        return bool(found)

    def kill_part(self, part: str) -> None:
        """Kill Kafka or the registry at some moment, and start it again a moment later."""
        time.sleep(self.rng.uniform(0.2, 3))
        running = process.find(self.home, part)
        assert running is not None
        running.kill()
        self.kills[part] += 1
        time.sleep(self.rng.uniform(0, 1))
        local.up(self.home)

    # ---- steps ---------------------------------------------------------------------------------

    def begin(self) -> None:
        """Publish the first day, apply the agreements, and let the projection run."""
        self.tell("optouts", "none")
        self.publish()
        self.tell("vendors", "apply")
        self.projector.start()

    def day(self) -> None:
        """Publish some changes."""
        self.district.some_changes(25)
        self.publish()

    def opt_out_after_a_change(self) -> None:
        """Change a student and then enter an opt-out, while no projection runs.

        The projection then reads a change that no vendor may receive any more.
        """
        self.projector.stop()
        student = self.rng.choice(self.district.students())
        about = [
            key
            for key, row in self.district.rows.items()
            if student in (key[1], row.get("studentSourcedId"), row.get("userSourcedId"))
        ]
        known = set(self.district.canaries)
        for key in about:
            self.district.renew(key)
        self.never |= set(self.district.canaries) - known
        self.publish()
        self.opt_out(student)
        for key in about:
            self.district.renew(key)
        self.publish()
        self.projector.start()

    def end_an_opt_out(self) -> None:
        """End an opt-out; the student comes back."""
        if self.opt_outs:
            found = self.opt_outs.pop(self.rng.randrange(len(self.opt_outs)))
            self.tell("optouts", "end", found, secret=True, status=None)  # it may be ended already

    def some_opt_out(self) -> None:
        """Enter an opt-out of any scope."""
        student = self.rng.choice(self.district.students())
        scope = self.rng.choice(("protected", "directoryInformation", "vendor", "purpose"))
        vendor = f"{self.rng.choice(NAMES).title()} Inc."
        more = {"vendor": {"vendor": vendor}, "purpose": {"purpose": "instruction"}}
        self.opt_out(student, scope, **more.get(scope, {}))

    def mass_move(self) -> None:
        """Move most students of a school at once, which the guard must hold back."""
        school = self.district.schools["s1"]
        there = [
            one
            for one in self.district.students()
            if self.district.rows["student", one]["orgSourcedIds"] == school
        ]
        for student in there[: len(there) * 3 // 4]:
            self.district.move(student)
        self.publish()

    def revoke(self, name: str) -> None:
        """Revoke an agreement while the projection works, and note how soon it stops.

        What is published afterwards never reaches the vendor.
        """
        before = self._sent()
        self.projector.start()
        self.district.some_changes(25)
        self.publish()
        until(lambda: self._sent() > before, "the projection sends")
        self.tell("vendors", "revoke", name, "--why", "the contract ended", "--yes")
        began = time.monotonic()
        until(lambda: OVER.search(self.projector.log.read_bytes()), "the projection stops")
        self.stopped_after = time.monotonic() - began
        self.vendors[name].allow(self.history.window(mark=False), date.today())
        self.vendors[name].revoked = True
        self.day()

    def _sent(self) -> int:
        """Return how many messages there ever were in the vendors' topics."""
        settings = self.commands.settings
        names = [one for name in self.vendors for one in possible_topics(settings, name)]
        with Reader(settings, FAILED) as reader:
            return sum(reader.ends(names).values())

    @property
    def steps(self) -> list[Callable[[], None]]:
        """The possible steps of a random life. A change of an agreement is applied at once."""
        return [
            self.day,
            self.day,
            self.opt_out_after_a_change,
            self.some_opt_out,
            self.end_an_opt_out,
            self.mass_move,
            self.decide,
            self.decide,
        ]

    @property
    def faults(self) -> list[Callable[[], None]]:
        """What may fail at the same time."""
        parts = (lambda: self.kill_part("kafka"), lambda: self.kill_part("registry"))
        return [self.kill_projector, self.kill_projector, *parts]

    def decide(self) -> None:
        """Change an agreement at random, and apply it."""
        change = self.rng.choice((self.narrow, self.widen, self.redraw))
        change(self.rng.choice(self.active))
        self.insist("vendors", "apply")

    def trouble(self, seconds: float) -> None:
        """Change agreements, and kill parts, again and again for this time."""
        until_then = time.monotonic() + seconds
        while time.monotonic() < until_then:
            self.decide()
            for fault in self.faults:
                fault()
            time.sleep(2)

    def rush(self, seconds: float, *, rate: int) -> float:
        """Publish changes at a rate, in many runs of the producer; return changes per second."""
        began, before = time.monotonic(), self.changes
        due = 0.0
        while (passed := time.monotonic() - began) < seconds or due < rate * seconds:
            number = max(1, min(len(self.district.rows), int(rate * (passed + 2) - due)))
            self.district.touch(number)
            due += number
            self.publish()
            time.sleep(max(0.0, due / rate - (time.monotonic() - began) - 1))
        return (self.changes - before) / (time.monotonic() - began)

    # ---- checks --------------------------------------------------------------------------------

    def check(self, *, holds: str = "") -> None:
        """Let the projection catch up, and check everything.

        holds: the vendor whose guard must have held students back.
        """
        self.projector.stop()
        self._catch_up()
        held = self._held()
        assert not holds or holds in held, f"{holds}: the guard held nobody back"
        for name in held:
            self.held += 1
            self.tell("vendors", "allow", name)
        if held:
            self._catch_up()
        self.look(held)
        self.projector.start()

    def look(self, held: Collection[str] = ()) -> None:
        """Check everything that the vendors can read from their topics now.

        held: the vendors whose guard held students back for a while.
        """
        window, settings = self.history.window(), self.commands.settings
        for name, vendor in self.vendors.items():
            vendor.held = name in held
            vendor.allow(window, date.today())
            vendor.received = reach(settings, name)
        for vendor in self.vendors.values():
            self.checked += vendor.no_canary_is_outside(self.district.canaries, self.never)
            vendor.is_in_order(self.district.canaries)
            if not vendor.revoked:
                vendor.is_equal(settings, self.history.state)
        share_no_value(self.vendors.values())
        self.checks += 1

    def _catch_up(self) -> None:
        self.tell("vendors", "run", "--until-caught-up")

    def _held(self) -> set[str]:
        """Return the vendors whose guard has held students back since the last call."""
        found = b"".join(self._said[self._read :])
        self._read = len(self._said)
        if self.projector.log.exists():
            self._said.append(self.projector.log.read_bytes())
            self.projector.log.unlink()
            found += self._said[-1]
        return set(HELD.findall(found.decode())) & set(self.active)

    def texts_of_errors(self) -> None:
        """Let commands fail as they do for a person, so that the texts are searched too.

        The projection also meets a message that does not decode and has a canary in it.
        """
        student = self.rng.choice(self.district.students())
        name = self.district.rows["student", student]["givenName"]
        settings = self.commands.settings
        producer = Producer(client_settings(settings))
        for value in (b"\x00\x00\x00\x00\x01" + name.encode(), name.encode()):
            producer.produce(topics.topic(settings, "student"), value, student.encode(), 0)
        assert producer.flush(30) == 0
        self.projector.stop()  # or the command would wait for its end
        self.tell("vendors", "run", "--until-caught-up")
        self.tell("vendors", "plan")
        self.tell("vendors", "show", self.active[0])
        self.tell("optouts", "end", "nobody", status=1)
        path = self.commands.cwd / "agreements" / f"{self.active[0]}.toml"
        path.write_text(path.read_text() + "\n[nothing]\n")
        self.tell("vendors", "apply", status=1)

    def nothing_is_logged(self) -> int:
        """Check all logs and the texts of errors; return how many bytes there were."""
        self.projector.stop()
        self._held()
        said = b"\n".join(self._said)
        found = personal(self.district.canaries, found_in(said))
        assert not found, f"logged: {found[0]}"
        return len(said)

    def gate_shows_only_their_own(self) -> int:
        """Check what the gate answers to each vendor; return how many answers there were."""
        return gate_shows_only_their_own(self.commands.settings, list(self.vendors), self.rng)
