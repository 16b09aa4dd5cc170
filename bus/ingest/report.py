"""What came of publishing an extract, or would come of it in a dry run."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from bus.ingest.fault_group import grouped
from bus.ingest.record_difference import RecordDifference
from bus.source import Fault
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode

WHOLE_ROW_CODES = frozenset(
    {
        FaultCode.BROKEN_QUOTES,
        FaultCode.UNREADABLE_BYTES,
        FaultCode.TOO_FEW_VALUES,
        FaultCode.TOO_MANY_VALUES,
    }
)
"""Codes of faults of a whole row. Beyond a maximum, such faults are only counted: then one fault
has a count and no line number."""

COUNTED = ("created", "updated", "withdrawn", "unchanged", "quarantined")


@dataclass(slots=True)
class Report:
    """The result of publishing an extract.

    records:       for each kind in the extract, how many records were created, updated, withdrawn,
                   unchanged and quarantined.
    faults:        what was wrong with the extract. One entry may be many faults (`Fault.count`);
                   `faulty` has the number of faults.
    put_off:       for each kind whose withdrawals are deferred, the reason. Other changes of the
                   kind are published. A later extract without unreadable rows withdraws its absent
                   records.
    active_before: for each kind, how many active records the source had published before this run.
    """

    source: str
    records: dict[str, dict[str, int]] = field(default_factory=dict)
    faults: list[Fault] = field(default_factory=list)
    put_off: dict[str, str] = field(default_factory=dict)
    active_before: dict[str, int] = field(default_factory=dict)

    def as_json(self) -> dict[str, Any]:
        """Return the report as `bus produce … --json` prints it.

        It has every kind of the standard, with zeros for kinds that are not in the extract. Its key
        "faults" is the number of entries in the list, not of faults.
        """
        none = dict.fromkeys(COUNTED, 0)
        return {
            "source": self.source,
            "records": {kind: self.records.get(kind, none) for kind in KINDS},
            "faults": len(self.faults),
            "putOff": self.put_off,
        }

    @property
    def unread(self) -> list[str]:
        """The files of which nothing could be read, so that no record in them was published."""
        whole = (
            f
            for f in self.faults
            if f.fatal
            and f.code not in WHOLE_ROW_CODES
            and (f.line == 1 or not (f.line or f.column))
        )
        return sorted({fault.file for fault in whole})

    @property
    def published(self) -> int:
        """How many records were created, updated or withdrawn.

        In a dry run or before publishing, this is how many would be. A record that moved to other
        records (see `bus.ingest.pipeline`) counts once, although two events are published for it.
        """
        return sum(
            counts[change]
            for counts in self.records.values()
            for change in ("created", "updated", "withdrawn")
        )

    @property
    def faulty(self) -> int:
        """How many faults there are, including those that are only reported as a number."""
        return sum(fault.count for fault in self.faults)


@dataclass(frozen=True, slots=True)
class ExtractDryRun:
    """The result of a dry run.

    report:      the report that the run would return.
    guard:       why the guard (`bus.ingest.guard`) would stop the run, or "".
    differences: the records that the run would publish.
    """

    report: Report
    guard: str
    differences: list[RecordDifference]

    def as_json(self) -> dict[str, Any]:
        """Return the result as `bus produce … --dry-run --json` prints it."""
        groups = grouped((self.report.source, fault) for fault in self.report.faults)
        return {
            **self.report.as_json(),
            "dryRun": True,
            "guard": self.guard,
            "groups": [group.as_json() for group in groups],
            "differences": [one.as_json() for one in self.differences],
        }
