"""A published district, and agreements that share all of it with vendors."""

from __future__ import annotations

from collections.abc import Collection, Iterator, Sequence
from contextlib import closing, contextmanager
from dataclasses import dataclass
from datetime import UTC, date, datetime, timedelta
from itertools import cycle, product
from pathlib import Path
from typing import NamedTuple

from bus.demo.sample import GRADES, District
from bus.demo.stage import Stage, wait_for
from bus.kafka import removal
from bus.settings import Settings
from bus.vendors import applied, expiry, revocation, written_editions
from bus.vendors.categories import categories
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.vendor_topics import possible_topics

HOUR = 3600.0
OPT_OUTS = 0.01
"""The share of the students that have an opt-out."""
AT_ONCE = 10
"""The most agreements whose topics are created or deleted at once. A slow broker needs time."""
LOOK_SECONDS = 0.5
"""Seconds between two looks whether a vendor's topics are written."""

AGREEMENT = """\
vendor = "Vendor {name}"
purpose = "instruction"
basis = "school-official"
from = {first}
until = {last}
history = 2020-01-01
roles = ["teacher", "guardian"]
document = {{ title = "Benchmark", sha256 = "{digest}" }}
contacts = {{ vendor = "v@vendor.example", district = "d@district.example" }}
guard = {{ share = 1.0 }}

[share]
categories = {categories}

[share.why]
{why}

[students]
schools = {schools}
grades = {grades}
"""
"""An agreement that shares everything. Its guard is off, because many students change at once."""


class StudentGroup(NamedTuple):
    """The students of some schools in some grades; an empty field does not restrict them."""

    schools: Sequence[str] = ()
    grades: Sequence[str] = ()


ALL = StudentGroup()


def agreement_text(name: str, part: StudentGroup = ALL, without: Collection[str] = ()) -> str:
    """Return an agreement that is active today and shares all categories, except for some."""
    shared = [name for name, fields in categories().items() if fields and name not in without]
    return AGREEMENT.format(
        name=name,
        first=date.today() - timedelta(days=30),
        last=date.today() + timedelta(days=300),
        digest="0" * 64,
        categories=shared,
        why="\n".join(f"'{one}' = 'for the benchmark'" for one in shared),
        schools=list(part.schools),
        grades=list(part.grades),
    )


@dataclass(frozen=True, slots=True)
class VendorsDistrict:
    """A district whose records are published under a prefix of its own.

    settings: name the prefix, and the folder of the agreements.
    students: how many students it has.
    schools:  their ids.
    """

    stage: Stage
    settings: Settings
    students: int
    schools: tuple[str, ...]

    def parts(self, number: int) -> list[StudentGroup]:
        """Return the students in this many parts: by school, and by grade if schools are few."""
        by_school = max(one for one in range(1, len(self.schools) + 1) if number % one == 0)
        by_grade = number // by_school
        schools = [self.schools[at::by_school] for at in range(by_school)]
        grades = [GRADES[at::by_grade] if by_grade > 1 else () for at in range(by_grade)]
        return [StudentGroup(*both) for both in product(schools, grades)]

    def apply(
        self,
        names: Sequence[str],
        parts: Sequence[StudentGroup] = (ALL,),
        without: Collection[str] = (),
    ) -> None:
        """Write agreements, and apply them.

        parts:   the students of the agreements, which take turns.
        without: the categories that are not shared.
        """
        both = list(zip(names, cycle(parts), strict=False))
        for first in range(0, len(both), AT_ONCE):
            for name, part in both[first : first + AT_ONCE]:
                self._file(name).write_text(agreement_text(name, part, without), "utf-8")
            self.stage.run("vendors", "apply", patience=HOUR)

    @contextmanager
    def agreed(
        self, names: Sequence[str], parts: Sequence[StudentGroup] = (ALL,)
    ) -> Iterator[None]:
        """Apply these agreements; at the end, revoke them and delete their topics.

        So what an agreement leaves behind does not slow down the next measurement.
        """
        self.apply(names, parts)
        try:
            yield
        finally:
            self.end(names)

    def end(self, names: Sequence[str]) -> None:
        """Revoke these agreements, and delete the topics of their vendors.

        What else `bus vendors delete` deletes does not matter here, and would take longer.
        """
        with closing(DisclosureWriter(self.settings)) as record:
            for name in names:
                self._file(name).unlink(missing_ok=True)
                now = datetime.now(UTC)
                revocation.revoke(self.settings, name, "the benchmark is over", now)
                expiry.settle(self.settings, name, applied.today(), now, record)
        for first in range(0, len(names), AT_ONCE):
            some = names[first : first + AT_ONCE]
            removal.delete_topics(
                self.settings,
                [topic for name in some for topic in possible_topics(self.settings, name)],
            )

    def _file(self, name: str) -> Path:
        return self.settings.vendors.agreements / f"{name}.toml"


def written(settings: Settings, name: str) -> bool:
    """Return whether a vendor's topics hold the applied agreement whole, and nothing older."""
    return written_editions.read(settings, name) == applied.read(settings)[name].edition


def wait_until_written(settings: Settings, names: Sequence[str]) -> None:
    """Return when the topics of these vendors are written. Raises `Stop` after an hour."""
    left = list(names)

    def done() -> bool:
        while left and written(settings, left[-1]):
            left.pop()
        return not left

    wait_for(done, "writing the topics of vendors", LOOK_SECONDS, HOUR)


def published(stage: Stage, prefix: str, students: int) -> VendorsDistrict:
    """Publish a district on the bus of the stage; commands use it from now on."""
    agreements = stage.folder / "agreements" / prefix
    agreements.mkdir(parents=True)
    stage.set(BUS_TOPIC_PREFIX=prefix, BUS_VENDORS__AGREEMENTS=str(agreements))
    vendors = stage.settings.vendors.model_copy(update={"agreements": agreements})
    settings = stage.settings.model_copy(update={"topic_prefix": prefix, "vendors": vendors})
    district = District(students=students, opt_outs=OPT_OUTS)
    extract = district.write(stage.folder / "extracts" / prefix)
    stage.run("schemas", "apply")
    stage.run("produce", "oneroster-csv", str(extract), patience=HOUR)
    return VendorsDistrict(stage, settings, students, tuple(district.school_ids()))
