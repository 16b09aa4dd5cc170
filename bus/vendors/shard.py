"""The parts into which `bus vendors run` divides its work, when several instances share it.

With `vendors.shards = 1` there is one shard, which does everything. With a larger number N there
are N + 1:

* shards 1 to N divide the students, by the partition of the district's topics. Each keeps its
  students, and decides and sends the records about them;
* shard 0, the common shard, has the records that students share: organizations, terms, courses,
  classes, staff, guardians, line items, and the enrollments of teachers. It also does what must be
  done once: the record of disclosures, the ends of agreements, the deletion of old records.

The instances of `bus vendors run` share the shards. A shard is worked by one instance at a time
(`bus.vendors.shard_group`). The shards talk through a topic (`bus.vendors.shard_words`).
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from bus.settings import Settings
from bus.standard.kinds import KINDS
from bus.vendors.district_view import file_of

RULED_BY = ("class", "lineItem")
"""The kinds, besides those about students, that decide which results a vendor sees
(`bus.vendors.record_rules`)."""


@dataclass(frozen=True, slots=True)
class Shard:
    """One part of the work.

    number: which one; 0 has the records that students share.
    of:     the number of shards of students; 0 if one shard does everything.
    """

    number: int = 0
    of: int = 0

    @property
    def whole(self) -> bool:
        """Whether this shard does everything."""
        return self.of == 0

    @property
    def students(self) -> bool:
        """Whether this shard has students."""
        return self.whole or self.number > 0

    @property
    def common(self) -> bool:
        """Whether this shard has the records that students share."""
        return self.number == 0

    def reads(self, kind: str, partition: int) -> bool:
        """Return whether this shard reads a partition of the district's topic of a kind."""
        if self.whole:
            return True
        about = KINDS[kind].student
        if self.number == 0:
            return about is None or bool(about.when)  # an enrollment may be a teacher's
        if about is None:
            return kind in RULED_BY
        return partition % self.of == self.number - 1

    def keeps(self, student: str | None, kind: str) -> bool:
        """Return whether this shard keeps a record that it reads.

        student: the student that the record is about; None if it is about none.
        """
        if self.whole or KINDS[kind].student is None:
            return True
        return (student is None) is (self.number == 0)

    def file(self, settings: Settings) -> Path:
        """Return the path of this shard's view of the district."""
        whole = file_of(settings)
        return whole if self.whole else whole.with_name(f"{whole.stem}.{self}{whole.suffix}")

    def __str__(self) -> str:
        return f"{self.number}-of-{self.of}"


WHOLE = Shard()


def shards(settings: Settings) -> list[Shard]:
    """Return all shards."""
    number = settings.vendors.shards
    return [WHOLE] if number == 1 else [Shard(at, number) for at in range(number + 1)]


def files(settings: Settings) -> list[Path]:
    """Return the paths of the views that this machine has, those of other numbers too."""
    whole = file_of(settings)
    some = whole.parent.glob(f"{whole.stem}.*-of-*{whole.suffix}")
    found = [one for one in some if _is_shard(one.name[len(whole.stem) + 1 : -len(whole.suffix)])]
    return sorted([*found, *([whole] if whole.exists() else [])])


def _is_shard(text: str) -> bool:
    """Return whether a text is what `str` makes of a shard, and not another prefix's end."""
    number, _, of = text.partition("-of-")
    return number.isdecimal() and of.isdecimal()
