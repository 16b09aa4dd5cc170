"""Tests a vendor's subscriber with the events of a district, step by step, and reports the results.

After each step, the subscriber must hold exactly what the vendor's topics say. This module reads
the expected state from the topics, without a consumer group. The subscriber writes what it holds
into a file (`bus.sandbox.state_file`). To see the state again, this module deletes the file, and
the subscriber writes it again.
"""

from __future__ import annotations

import random
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import datetime
from typing import Any

from bus.sandbox.daily_changes import WITHDRAWN, joined, opted_out, renamed, taken_over
from bus.sandbox.living_sandbox import projected
from bus.sandbox.made_up_district import Key, MadeUpDistrict
from bus.sandbox.state_file import StateDifference, StateError, described, differences, read_state
from bus.sandbox.subscriber import Subscriber
from bus.sandbox.vendor_bus import VendorBus
from bus.standard.kinds import KINDS, Record
from bus.vendors.agreement import Agreement
from bus.vendors.applied import fingerprint
from bus.vendors.categories import ALWAYS
from bus.vendors.scope import compile_scope

REDELIVERED = 20
"""After a kill, this many messages of each partition come again, in addition to those that the
program had not committed."""
CHANGING_SECONDS = 3.0
"""How many seconds changes come before the kill. A program that commits offsets before it stores
the messages is likely to lose some of them."""
PROJECTION_SECONDS = 60.0
"""How many seconds the first change may take to reach the vendor's topics."""
RENAMED = 5
DELETED = 3
NO_STATE = "the program wrote no state file"
NOTHING_CHANGED = (
    "nothing changed in the topics that the program reads, because the agreement or the district "
    "has no data for this step"
)


@dataclass(frozen=True, slots=True)
class StepResult:
    """The result of one step.

    step:     what the step does.
    problems: what was wrong, with ids and fields, without values; empty if the step passed.
    records:  how many records the subscriber must hold after the step.
    not_run:  why the step tested nothing; "" if it did.
    """

    step: str
    problems: tuple[str, ...]
    records: int
    not_run: str = ""

    @property
    def passed(self) -> bool:
        """Whether the step tested something, and the subscriber held exactly what it must."""
        return not self.problems and not self.not_run


@dataclass(frozen=True, slots=True)
class CertificationReport:
    """The report for the district about a vendor's subscriber.

    agreement: the agreement as its file has it.
    command:   the command line of the program.
    kinds:     the kinds of record that the program reads.
    versions:  the versions of Schoolbus and of what it used, by name.
    at:        when the run ended, in UTC.
    """

    agreement: Agreement
    command: str
    kinds: tuple[str, ...]
    versions: Mapping[str, str]
    at: datetime
    steps: tuple[StepResult, ...]

    @property
    def passed(self) -> bool:
        """Whether no step failed. A step that was not run has not failed."""
        return not any(step.problems for step in self.steps)

    def as_json(self) -> dict[str, Any]:
        """Return the report as JSON values."""
        return {
            "agreement": self.agreement.name,
            "vendor": self.agreement.vendor,
            "fingerprint": fingerprint(self.agreement),
            "from": self.agreement.from_.isoformat(),
            "until": self.agreement.until.isoformat(),
            "program": self.command,
            "kinds": self.kinds,
            "versions": dict(self.versions),
            "at": self.at.isoformat(timespec="seconds"),
            "passed": self.passed,
            "steps": [
                {
                    "step": one.step,
                    "passed": one.passed,
                    "notRun": one.not_run,
                    "records": one.records,
                    "problems": one.problems,
                }
                for one in self.steps
            ],
        }

    def lines(self) -> Iterator[str]:
        """Yield the report as text."""
        yield f"Certification under the agreement {self.agreement.name}"
        yield f"  vendor       {self.agreement.vendor}"
        yield f"  agreement    {self.agreement.from_} to {self.agreement.until}"
        yield f"  fingerprint  {fingerprint(self.agreement)}"
        yield f"  program      {self.command}"
        yield f"  kinds        {', '.join(self.kinds)}"
        yield f"  versions     {', '.join(f'{name} {one}' for name, one in self.versions.items())}"
        yield f"  date         {self.at.isoformat(timespec='seconds')}"
        yield ""
        for step in self.steps:
            how = "FAILED " if step.problems else "not run" if step.not_run else "passed "
            yield f"{how} {step.step} ({step.records:,} records)"
            yield from (f"          {one}" for one in (*step.problems, step.not_run) if one)
        failed = sum(bool(step.problems) for step in self.steps)
        passed = sum(step.passed for step in self.steps)
        if failed:
            yield f"{failed} of {len(self.steps)} steps failed"
        elif passed < len(self.steps):
            yield f"{passed} of {len(self.steps)} steps passed; the others were not run"
        else:
            yield "All steps passed."


class Certification:
    """The steps of a certification. Call `run` once, in the `with` block of the bus.

    bus:      the bus, with the district published and the vendor's topics up to date.
    patience: how many seconds the program has after each step to reach the right state.
    note:     called with a line before each step.
    """

    def __init__(
        self,
        bus: VendorBus,
        subscriber: Subscriber,
        patience: float,
        note: Callable[[str], None] = lambda _: None,
    ) -> None:
        self._bus = bus
        self._subscriber = subscriber
        self._patience = patience
        self._note = note
        self._random = random.Random(1)
        self._before: set[tuple[str, str, str]] = set()
        self._expected: dict[Key, Record] = {}
        self._cut = ""
        self._out: list[Key] = []

    def run(self) -> tuple[StepResult, ...]:
        """Run all steps, and kill the program at the end.

        A step that changes nothing in the topics that the program reads is reported as not run.

        If an earlier step has reported a record, the record is not reported again for the same
        reason. So each step reports only the problems that are new.

        Raises `Stop` if the program cannot be started, and the errors of the bus.
        """
        steps = (
            ("The first read", self._first_read, False),
            ("A crash, and messages that come again", self._redelivery, True),
            ("Students are deleted", self._deletions, True),
            ("A deleted student comes back", self._return, True),
            ("A field is taken out of the agreement", self._field_out, True),
            ("Fields are added to the agreement", self._field_in, True),
            ("A student gets another id", self._another_id, True),
            ("Everything is read again from the beginning", self._replay, False),
        )
        found = []
        try:
            for step, act, changes in steps:
                self._note(f"{step} …")
                if self._subscriber.ended() is not None:  # the program ended in an earlier step
                    self._restart()
                found.append(self._judged(step, act(), changes=changes))
        finally:
            self._subscriber.kill()
        return tuple(found)

    # ---- the steps -----------------------------------------------------------------------------
    # Each step returns whether the program must read everything again before it is judged.

    def _first_read(self) -> bool:
        self._subscriber.start()
        return False

    def _redelivery(self) -> bool:
        """Kill the program while it reads changes, and start it some messages further back."""
        bus, subscriber = self._bus, self._subscriber
        roster = bus.district.roster(bus.scope)
        ends, came = subscriber.ends(), 0.0
        stopping, until = threading.Event(), time.monotonic() + PROJECTION_SECONDS
        with projected(bus, stopping):
            while time.monotonic() < until and not stopping.wait(0.2):
                students = self._random.choices(roster, k=RENAMED) if roster else []
                keys = [renamed(bus.district, one, self._random) for one in students]
                if roster:
                    keys += joined(bus.district, self._random.choice(roster), self._random)
                bus.publish(keys)
                if not came and subscriber.ends() != ends:
                    came = time.monotonic()
                    until = came + CHANGING_SECONDS
            subscriber.kill()
        bus.project()
        subscriber.start(subscriber.offsets(REDELIVERED))
        return True

    def _deletions(self) -> bool:
        bus = self._bus
        roster = bus.district.without_opt_outs(bus.district.roster(bus.scope))
        self._out = [opted_out(bus.district, one, bus.scope) for one in roster[:DELETED]]
        self._publish(self._out)
        return False

    def _return(self) -> bool:
        self._publish([self._bus.district.set(key, status=WITHDRAWN) for key in self._out[:1]])
        return False

    def _field_out(self) -> bool:
        agreement = self._bus.agreement
        self._cut = field_to_cut(agreement)
        share = agreement.share
        if self._cut:
            self._share(without=(*share.without, self._cut))
        return False

    def _field_in(self) -> bool:
        share = self._bus.agreement.share
        added = field_to_add(self._bus.agreement, self._bus.district.records)
        self._share(
            without=tuple(one for one in share.without if one not in (self._cut, added)),
            fields=(*share.fields, *((added,) if added else ())),
        )
        return False

    def _another_id(self) -> bool:
        bus = self._bus
        roster = bus.district.without_opt_outs(bus.district.roster(bus.scope))
        self._publish(another_id(bus.district, roster[0]) if roster else [])
        return False

    def _replay(self) -> bool:
        self._subscriber.kill()
        self._subscriber.start(self._subscriber.beginnings())
        return True

    # ---- helpers -------------------------------------------------------------------------------

    def _publish(self, keys: list[Key]) -> None:
        self._bus.publish(keys)
        self._bus.project()

    def _share(self, **changes: object) -> None:
        agreement = self._bus.agreement
        share = agreement.share.model_copy(update=changes)
        self._bus.apply(agreement.model_copy(update={"share": share}))
        self._bus.project()

    def _restart(self) -> None:
        self._subscriber.kill()
        self._subscriber.start(self._subscriber.offsets())

    def _judged(self, step: str, everything_again: bool, *, changes: bool = False) -> StepResult:
        """Return the result of a step, as soon as the state is right or the time is over.

        changes: whether the step tests something only if it changes what the program must hold.
        """
        expected = self._bus.received(self._subscriber.kinds)
        idle = changes and expected == self._expected
        self._expected = expected
        until = time.monotonic() + self._patience
        if everything_again:
            self._subscriber.wait_for_offsets(until)
            until = max(until, time.monotonic() + self._patience / 2)
        problems = self._problems(expected, until)
        not_run = NOTHING_CHANGED if idle and not problems else ""
        return StepResult(step, tuple(problems), len(expected), not_run)

    def _problems(self, expected: Mapping[Key, Record], until: float) -> list[str]:
        path, wrong = self._subscriber.state, ""
        found: list[StateDifference] | None = None
        path.unlink(missing_ok=True)
        while time.monotonic() < until:
            if (status := self._subscriber.ended()) is not None:
                return [f"the program ended with status {status}"]
            if path.exists():
                try:
                    found, wrong = differences(expected, read_state(path)), ""
                except StateError as error:
                    found, wrong = None, str(error)
                if found is not None and not self._new(found):
                    break
                path.unlink(missing_ok=True)
            time.sleep(0.1)
        if found is None:
            return [wrong or NO_STATE]
        problems = list(described(self._new(found)))
        self._before = {_sort(one) for one in found}
        return problems

    def _new(self, found: list[StateDifference]) -> list[StateDifference]:
        return [one for one in found if _sort(one) not in self._before]


def _sort(difference: StateDifference) -> tuple[str, str, str]:
    return difference.kind, difference.id, difference.what


def field_to_cut(agreement: Agreement) -> str:
    """Return a shared field, `KIND.FIELD`, whose removal takes no record away; "" if there is none.

    The field is not a reference. If possible, it is a field of a student.
    """
    kinds = compile_scope(agreement).kinds
    for kind in sorted(kinds, key=lambda one: one != "student"):
        plain = [one for one in kinds[kind].fields if one not in ALWAYS]
        if len(plain) > 1:
            for field in reversed(plain):
                if field not in kinds[kind].references and field != "role":
                    return f"{kind}.{field}"
    return ""


def field_to_add(agreement: Agreement, records: Mapping[Key, Record]) -> str:
    """Return a field, `KIND.FIELD`, that is not shared and has values; "" if there is none.

    The field is not a reference, and its kind is shared. If possible, it is a field of a student.
    """
    kinds = compile_scope(agreement).kinds
    for kind in sorted(kinds, key=lambda one: one != "student"):
        for field in KINDS[kind].fields:
            if field in kinds[kind].fields or field.endswith(("ourcedId", "ourcedIds")):
                continue
            if any(one[field] for (name, _), one in records.items() if name == kind):
                return f"{kind}.{field}"
    return ""


def another_id(district: MadeUpDistrict, student: str) -> list[Key]:
    """Give a student another sourcedId, as a new SIS does; return the keys of the changed records.

    All records about the student with the old id are withdrawn.
    """
    new = f"{student}-new"
    before = district.about(student)
    keys = taken_over(
        district, student, new, [kind for kind, about in KINDS.items() if about.student]
    )
    for one in district.of("guardian"):
        if student in one["agentSourcedIds"]:
            agents = [new if id_ == student else id_ for id_ in one["agentSourcedIds"]]
            keys.append(district.set(("guardian", one["sourcedId"]), agentSourcedIds=agents))
    return keys + [district.set(key, status=WITHDRAWN) for key in before]
