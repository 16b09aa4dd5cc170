"""What is new, changed or withdrawn: an extract compared with what was last published."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import duckdb
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.contract import a_record
from bus.ingest import row_hashes
from bus.ingest.columns import columns, definition, fingerprint, quoted
from bus.ingest.diff import Changes, compare
from bus.ingest.workspace import Workspace
from bus.source import Coverage, Staging

Published = dict[str, dict[str, Any]]


def diff(
    kind: str,
    before: Published,
    now: list[dict[str, Any]],
    coverage: Coverage = "bulk",
    unreadable: tuple[str, ...] = (),
) -> tuple[Changes, list[tuple[str, str, str]], Published]:
    """Return the counts, (change, sourcedId, status) of each event, and the published records after it.

    unreadable: ids of rows that are in the extract and in quarantine.
    """
    con = duckdb.connect()
    workspace = Workspace(Staging(con, Path()))
    published, raw, record_ = (
        table(kind) for table in (workspace.published, workspace.raw, workspace.record)
    )
    workspace.attach(Path(":memory:"))
    con.execute(f"CREATE TABLE {published} ({definition(kind)}, _fingerprint UBIGINT)")
    con.execute(f"CREATE TABLE before ({definition(kind)})")
    con.execute(f"CREATE TABLE {record_} ({definition(kind)}, _line BIGINT, _file VARCHAR)")
    con.execute(f"CREATE TABLE {raw} (sourcedId VARCHAR)")
    marks = ", ".join("?" for _ in columns(kind))
    for record in before.values():
        con.execute(f"INSERT INTO before VALUES ({marks})", list(record.values()))
    con.execute(f"INSERT INTO {published} SELECT *, {fingerprint(kind, 'b')} FROM before b")
    for line, record in enumerate(now, start=2):
        con.execute(
            f"INSERT INTO {record_} VALUES ({marks}, {line}, 'f.csv')",
            list(record.values()),
        )
    for name in (*(record["sourcedId"] for record in now), *unreadable):
        con.execute(f"INSERT INTO {raw} VALUES (?)", [name])
    row_hashes.stale(workspace, kind)
    row_hashes.gone(workspace, kind)
    counts = compare(workspace, kind, coverage)
    fields = ", ".join(f"c.{quoted(name)}" for name in columns(kind))
    rows = con.execute(
        f"SELECT _change, _moved, {fields} FROM {workspace.change(kind)} c "
        "ORDER BY _line, _moved DESC"
    ).fetchall()
    after = dict(before)
    events = []
    for change, moved, *values in rows:
        record = dict(zip(columns(kind), values, strict=True))
        events.append(("withdrawn" if moved else change, record["sourcedId"], record["status"]))
        if not moved:
            after[record["sourcedId"]] = record
    con.close()
    return counts, events, after


def org(id_: str, name: str = "Oak", **said: Any) -> dict[str, Any]:
    return a_record("org", sourcedId=id_, name=name, **said)


def test_a_record_never_seen_is_created() -> None:
    counts, events, _ = diff("org", {}, [org("a")])
    assert counts == Changes(created=1, updated=0, withdrawn=0, unchanged=0, active_before=0)
    assert events == [("created", "a", "active")]


def test_the_same_again_is_nothing() -> None:
    counts, events, _ = diff("org", {"a": org("a")}, [org("a")])
    assert (counts.unchanged, events) == (1, [])


def test_a_new_stamp_alone_is_no_change() -> None:
    from datetime import datetime

    counts, events, _ = diff(
        "org", {"a": org("a")}, [org("a", dateLastModified=datetime(2026, 11, 24))]
    )
    assert (counts.unchanged, events) == (1, [])


def test_another_name_is_an_update() -> None:
    _, events, _ = diff("org", {"a": org("a")}, [org("a", "Elm")])
    assert events == [("updated", "a", "active")]


def test_what_is_marked_is_withdrawn() -> None:
    counts, events, _ = diff("org", {"a": org("a")}, [org("a", status="tobedeleted")])
    assert (counts.withdrawn, events) == (1, [("withdrawn", "a", "tobedeleted")])


def test_what_is_marked_is_withdrawn_as_it_last_was_whatever_its_row_now_says() -> None:
    """An enrollment moves to another class and then ends, but products have the former class."""
    before = a_record("enrollment", sourcedId="e")
    row = before | {"classSourcedId": "other", "status": "tobedeleted"}
    counts, events, after = diff("enrollment", {"e": before}, [row])
    assert (counts.withdrawn, counts.unchanged) == (1, 0)
    assert events == [("withdrawn", "e", "tobedeleted")]
    assert after["e"] == before | {"status": "tobedeleted"}


def test_what_is_missing_from_a_whole_extract_is_withdrawn_as_it_last_was() -> None:
    counts, events, after = diff("org", {"a": org("a"), "b": org("b")}, [org("b")])
    assert (counts.withdrawn, counts.active_before) == (1, 2)
    assert events == [("withdrawn", "a", "tobedeleted")]
    assert after["a"]["name"] == "Oak"


def test_what_is_missing_from_a_delta_stays() -> None:
    counts, events, _ = diff("org", {"a": org("a")}, [], "delta")
    assert (counts.withdrawn, events) == (0, [])


def test_a_record_in_quarantine_is_not_withdrawn() -> None:
    _, events, _ = diff("org", {"a": org("a")}, [], unreadable=("a",))
    assert events == []


def test_what_was_withdrawn_and_comes_back_is_created() -> None:
    _, events, _ = diff("org", {"a": org("a", status="tobedeleted")}, [org("a")])
    assert events == [("created", "a", "active")]


def test_a_mark_on_what_was_never_published_is_nothing() -> None:
    counts, events, _ = diff("org", {}, [org("a", status="tobedeleted")])
    assert (counts.unchanged, events) == (1, [])


@pytest.mark.parametrize("end", ["classSourcedId", "userSourcedId"])
def test_an_enrollment_that_connects_other_records_ends_and_begins(end: str) -> None:
    """A product that identifies an enrollment by its student and class would keep the former one."""
    before = a_record("enrollment", sourcedId="e")
    counts, events, after = diff("enrollment", {"e": before}, [before | {end: "other"}])
    assert events == [("withdrawn", "e", "tobedeleted"), ("updated", "e", "active")]
    assert counts.updated == 1
    assert after["e"][end] == "other"


STATES = st.dictionaries(
    st.sampled_from("abcdef"),
    st.tuples(st.sampled_from(["Oak", "Elm", "Zoë's"]), st.sampled_from(["active", "tobedeleted"])),
)


@settings(deadline=None, max_examples=max(5, settings().max_examples // 2))
@given(before=STATES, now=STATES, coverage=st.sampled_from(["bulk", "delta"]))
def test_what_is_published_is_then_what_the_extract_says_and_no_more(
    before: dict[str, tuple[str, str]], now: dict[str, tuple[str, str]], coverage: Coverage
) -> None:
    """After an extract is applied once, the same extract changes nothing more."""
    active_before = {id_: org(id_, name, status=status) for id_, (name, status) in before.items()}
    extract = [org(id_, name, status=status) for id_, (name, status) in now.items()]
    counts, events, after = diff("org", active_before, extract, coverage)
    assert counts.created + counts.updated + counts.withdrawn == len(events)

    active = {id_: record["name"] for id_, record in after.items() if record["status"] == "active"}
    said = {id_: name for id_, (name, status) in now.items() if status == "active"}
    kept = {} if coverage == "bulk" else {i: n for i, (n, s) in before.items() if s == "active"}
    gone = {id_ for id_, (_, status) in now.items() if status != "active"}
    assert active == {i: n for i, n in (kept | said).items() if i not in gone}

    again, nothing, _ = diff("org", after, extract, coverage)
    assert nothing == []
    assert again.unchanged == len(now)
