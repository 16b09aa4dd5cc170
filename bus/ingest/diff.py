"""Compare an extract with what its source last published: what is new, changed or withdrawn.

DuckDB works on whole columns. It joins the extract (`record_KIND`, see `bus.ingest.integrity`) with
the cache of what was published (`published.KIND`, see `bus.ingest.snapshot`) by id and fingerprint.
"""

from __future__ import annotations

from dataclasses import dataclass

from bus.ingest import row_hashes
from bus.ingest.columns import columns, fingerprint, quoted
from bus.ingest.workspace import Workspace
from bus.source import Coverage
from bus.standard import KINDS


@dataclass(frozen=True, slots=True)
class Changes:
    """How many records of a kind are new, changed, withdrawn and unchanged.

    active_before: how many records were active before.
    """

    created: int
    updated: int
    withdrawn: int
    unchanged: int
    active_before: int


def compare(workspace: Workspace, kind: str, coverage: Coverage) -> Changes:
    """Make the table `change_KIND` with the records to publish, in their new state.

    It has the fields, `_line`, `_raw` and

    _change: created, updated or withdrawn;
    _again:  whether the cache has an earlier state of the record;
    _moved:  whether this row withdraws the former state of a relationship that now connects other
             records, such as an enrollment whose class, person or role has changed. The former
             state is withdrawn first, and then the new state is published. Otherwise a product that
             identifies a relationship by the records that it connects would keep the former one
             forever, and so would the partition of the former owner.

    A record whose row is in quarantine is neither changed nor withdrawn.
    """
    fields = ", ".join(quoted(name) for name in columns(kind))
    change, record = workspace.change(kind), workspace.record(kind)
    published, stale, gone = (
        table(kind) for table in (workspace.published, workspace.stale, workspace.gone)
    )
    workspace.require(published, stale, gone, record)
    concerned = f"SELECT sourcedId FROM {record}"
    if coverage == "bulk":
        concerned += f" UNION ALL SELECT sourcedId FROM {gone}"
    # Select the affected records once. Most published records, possibly millions, are not affected.
    before = workspace.concerned
    workspace.sql(
        f"CREATE OR REPLACE TEMP TABLE {before} AS SELECT b.* FROM {published} b "
        f"SEMI JOIN ({concerned}) r ON b.sourcedId = r.sourcedId"
    )
    workspace.sql(
        f"""
        CREATE OR REPLACE TABLE {change} AS
        SELECT r.* EXCLUDE (_print, _file), _change, _again, false AS _moved
        FROM (
            SELECT r.*, b.sourcedId IS NOT NULL AS _again, CASE
                WHEN r.status = 'tobedeleted' THEN NULL
                WHEN b.sourcedId IS NULL OR b.status = 'tobedeleted' THEN 'created'
                WHEN r._print <> b._fingerprint THEN 'updated'
            END AS _change
            FROM (SELECT r.*, {fingerprint(kind, "r")} AS _print FROM {record} r) r
            LEFT JOIN {before} b ON r.sourcedId = b.sourcedId
        ) r
        WHERE _change IS NOT NULL
        """
    )
    withdrawal = ", ".join(
        "'tobedeleted' AS status" if name == "status" else f"b.{quoted(name)}"
        for name in columns(kind)
    )
    # Withdraw the last published values, even if the row has others now. Products have only those.
    workspace.sql(
        f"""
        INSERT INTO {change} ({fields}, _line, _change, _again, _moved)
        SELECT {withdrawal}, r._line, 'withdrawn', true, false
        FROM {record} r JOIN {before} b ON r.sourcedId = b.sourcedId
        WHERE r.status = 'tobedeleted' AND b.status = 'active'
        """
    )
    if KINDS[kind].owner != "sourcedId":
        ends = [quoted(name) for name in (*KINDS[kind].required, "role") if name in columns(kind)]
        other = " OR ".join(f"c.{end} <> b.{end}" for end in ends)
        workspace.sql(
            f"""
            INSERT INTO {change} ({fields}, _line, _change, _again, _moved)
            SELECT {withdrawal}, c._line, 'updated', true, true
            FROM {change} c JOIN {before} b ON c.sourcedId = b.sourcedId
            WHERE c._change = 'updated' AND ({other})
            """
        )
    if coverage == "bulk":
        workspace.sql(
            f"""
            INSERT INTO {change} ({fields}, _line, _change, _again, _moved)
            SELECT {withdrawal}, 0, 'withdrawn', true, false
            FROM {before} b SEMI JOIN {gone} g ON b.sourcedId = g.sourcedId
            WHERE b.status = 'active'
            """
        )
    counted: dict[str, int] = dict(
        workspace.sql(f"SELECT _change, count(*) FROM {change} WHERE NOT _moved GROUP BY 1")
    )
    total = workspace.number(f"SELECT count(*) FROM {record}")
    touched = workspace.number(f"SELECT count(*) FROM {change} c WHERE NOT _moved AND _line > 0")
    return Changes(
        created=counted.get("created", 0),
        updated=counted.get("updated", 0),
        withdrawn=counted.get("withdrawn", 0),
        unchanged=total - touched + row_hashes.unchanged(workspace, kind),
        active_before=workspace.number(f"SELECT count(*) FROM {published} WHERE status = 'active'"),
    )
