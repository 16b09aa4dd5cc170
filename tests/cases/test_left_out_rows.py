"""A custom source leaves out a row that it cannot read, so the record of the row is unknown."""

from __future__ import annotations

from bus.source import Fault, Staging
from tests.cases.way_in import WayIn


def orgs(*ids: str, fault: Fault | None = None) -> object:
    """Return a read function of a source: whole extracts of schools, with a fault if given."""

    def read(staging: Staging) -> None:
        staging.con.execute(
            "CREATE TABLE raw_org AS SELECT 'orgs.json' AS _file, row_number() OVER () AS _line, "
            "unnest(?::VARCHAR[]) AS sourcedId, 'A school' AS name, 'school' AS type",
            [list(ids)],
        )
        staging.coverage["org"] = "bulk"
        if fault:
            staging.faults.append(fault)

    return read


def test_its_record_is_neither_changed_nor_gone(way_in: WayIn) -> None:
    """Nothing changes, even if the source names the faulty column."""
    for column in ("", "name"):
        fault = Fault("orgs.json", 2, column, "a list", "is no name; mend it", kind="org")
        way_in.publish(orgs("o1", "o2"))  # type: ignore[arg-type]
        day = way_in.publish(orgs("o1", fault=fault))  # type: ignore[arg-type]
        assert day.reported == []
        assert "1 rows could not be read" in day.report.put_off["org"]


def test_a_row_that_is_read_without_a_value_holds_nothing_back(way_in: WayIn) -> None:
    way_in.publish(orgs("o1", "o2"))  # type: ignore[arg-type]
    noted = Fault("orgs.json", 1, "name", "a list", "was left out", fatal=False, kind="org")
    assert way_in.publish(orgs("o1", fault=noted)).reported == ["org o2 withdrawn"]  # type: ignore[arg-type]
