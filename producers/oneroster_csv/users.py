"""Decides by their roles which users are students, staff or guardians.

In OneRoster 1.1 CSV, users.csv has one `role` for each user. In OneRoster 1.2 CSV Binding,
roles.csv has several roles for each user. Each role is in one organization, and is primary or
secondary.

One of a user's roles decides the kind of the user. It is chosen in this order: active roles before
deleted ones, primary before secondary, student before staff before guardian, then the first in the
file. The user's other roles of the same kind add the organizations that the user belongs to.
"""

from __future__ import annotations

from bus.ingest.coercion import cleaned, plain, value_class
from bus.ingest.columns import quoted
from bus.source import Fault, Staging
from bus.standard import KINDS
from bus.standard.fault_codes import FaultCode
from producers.oneroster_csv.rows import MOST

USERS, ROLES = "oneroster_users", "oneroster_roles"
"""The tables that hold users.csv and roles.csv until they are split."""


def _roles_of(kind: str) -> list[str]:
    role = next(field for field in KINDS[kind].schema["fields"] if field["name"] == "role")
    return [symbol for symbol in role["type"]["symbols"] if symbol != "other"]


KIND_OF = {
    "student": "student",
    **{role.lower(): "staff" for role in _roles_of("staff")},
    **{role.lower(): "guardian" for role in _roles_of("guardian")},
}
"""The kind of record for each role, in lower case. `other` could be any kind."""

UNKNOWN = "the role is not one of " + ", ".join(
    ["student", *_roles_of("staff"), *_roles_of("guardian")]
)


def split(staging: Staging, *, with_roles: bool) -> bool:
    """Make raw_student, raw_staff and raw_guardian from the users.

    Returns False when neither users.csv nor roles.csv has roles.
    """
    columns = _columns(staging, USERS)
    if with_roles and "role" not in _columns(staging, ROLES):
        reason = "has no column role; the file was not read"
        _fault(staging, "roles.csv", 1, "role", "", reason, FaultCode.MISSING_COLUMN)
        with_roles = False
    if not with_roles and "role" not in columns:
        reason = "has no column role, and roles.csv has no roles either; the file was not read"
        _fault(staging, "users.csv", 1, "role", "", reason, FaultCode.MISSING_COLUMN)
        return False
    if with_roles:
        _choose(staging)
    _attribute(staging, columns, with_roles=with_roles)
    for kind in ("student", "staff", "guardian"):
        _make(staging, kind)
    _report_unknown(staging)
    return True


def _columns(staging: Staging, table: str) -> list[str]:
    found = staging.con.execute(f"DESCRIBE {quoted(table)}").fetchall()
    return [str(row[0]) for row in found]


def _kind_of(role: str) -> str:
    """SQL: the kind of a role, or NULL when the role is unknown."""
    cases = " ".join(f"WHEN '{name}' THEN '{kind}'" for name, kind in KIND_OF.items())
    return f"CASE {plain(cleaned(role))} {cases} END"


def _choose(staging: Staging) -> None:
    """Make the table `chosen` from roles.csv.

    It has a kind, a role and the organizations for each user.
    """
    there = _columns(staging, ROLES)

    def column(name: str) -> str:
        return f"nullif(trim({quoted(name)}), '')" if name in there else "NULL"

    def word(name: str) -> str:
        return f"coalesce({plain(cleaned(quoted(name)))}, '')" if name in there else "''"

    staging.con.execute(
        f"""
        CREATE TEMP TABLE role_rows AS
        SELECT {column("userSourcedId")} AS id, {column("role")} AS role,
            {column("orgSourcedId")} AS org, {_kind_of(quoted("role"))} AS kind,
            {word("status")} IN ('tobedeleted', 'inactive') AS withdrawn,
            {word("roleType")} <> 'primary' AS secondary,
            list_position(['student', 'staff', 'guardian'], kind) AS rank, _line
        FROM {ROLES} WHERE {column("userSourcedId")} IS NOT NULL
        """
    )
    order = "ORDER BY withdrawn, secondary, rank NULLS LAST, _line"
    staging.con.execute(
        f"""
        CREATE TEMP TABLE chosen AS
        WITH best AS (
            SELECT id, first(coalesce(role, '') {order}) AS role,
                first(coalesce(kind, '') {order}) AS kind
            FROM role_rows GROUP BY id
        ), orgs AS (
            SELECT r.id, array_to_string(list(org {order}), ',') AS orgs,
                first(org {order}) AS home
            FROM role_rows r JOIN best b ON r.id = b.id AND r.kind = b.kind
            WHERE org IS NOT NULL AND NOT withdrawn GROUP BY r.id
        )
        SELECT id, role, nullif(kind, '') AS kind, orgs, home FROM best LEFT JOIN orgs USING (id)
        """
    )
    _report_rows(
        staging,
        "roles.csv",
        f"SELECT _line, {value_class('role')} FROM role_rows WHERE kind IS NULL",
        "role",
        f"{UNKNOWN}; this role was left out",
    )
    staging.con.execute(f"DROP TABLE role_rows; DROP TABLE {ROLES}")


def _attribute(staging: Staging, columns: list[str], *, with_roles: bool) -> None:
    """Make the view `attributed`: the users with `_kind`, which is NULL when unknown."""
    own = {
        name: f"u.{quoted(name)}" if name in columns else "CAST(NULL AS VARCHAR)"
        for name in ("role", "orgSourcedIds", "primaryOrgSourcedId")
    }
    if not with_roles:
        staging.con.execute(
            f"CREATE TEMP VIEW attributed AS SELECT *, {_kind_of('role')} AS _kind FROM {USERS}"
        )
        return
    others = ", ".join(f"u.{quoted(name)}" for name in columns if name not in {*own, "_raw"})
    staging.con.execute(
        f"""
        CREATE TEMP VIEW attributed AS SELECT {others},
            coalesce(c.role, {own["role"]}) AS role,
            coalesce(c.orgs, {own["orgSourcedIds"]}) AS orgSourcedIds,
            coalesce(nullif(trim({own["primaryOrgSourcedId"]}), ''), c.home)
                AS primaryOrgSourcedId,
            CASE WHEN c.id IS NULL THEN {_kind_of(own["role"])} ELSE c.kind END AS _kind,
            NULL::UBIGINT AS _raw
        FROM {USERS} u LEFT JOIN chosen c ON trim(u.sourcedId) = c.id
        """
    )


def _make(staging: Staging, kind: str) -> None:
    there = _columns(staging, "attributed")
    taken = ["_file", "_line", "_raw", *(name for name in KINDS[kind].fields if name in there)]
    staging.con.execute(
        f"CREATE TABLE {quoted(f'raw_{kind}')} AS SELECT {', '.join(map(quoted, taken))} "
        f"FROM attributed WHERE _kind = '{kind}'"
    )


def _report_unknown(staging: Staging) -> None:
    """Report the users of unknown kind.

    Such a row may belong to anyone who was published before. So these faults name no column and no
    kind, and no record is withdrawn because it is absent.
    """
    _report_rows(
        staging,
        "users.csv",
        f"SELECT _line, {value_class('role')} FROM attributed WHERE _kind IS NULL",
        "",
        f"{UNKNOWN}; the row was left out; correct it in the SIS and send the extract again",
    )
    staging.con.execute(f"DROP VIEW attributed; DROP TABLE {USERS}; DROP TABLE IF EXISTS chosen")


def _report_rows(staging: Staging, file: str, found: str, column: str, reason: str) -> None:
    listed = staging.con.execute(f"{found} ORDER BY _line LIMIT {MOST}").fetchall()
    for line, what in listed:
        _fault(staging, file, line, column, what, reason, FaultCode.UNKNOWN_ROLE)
    if len(listed) == MOST:
        number = staging.con.execute(f"SELECT count(*) FROM ({found})").fetchall()[0][0]
        if number > MOST:
            left = number - MOST
            more = f"{left:,} more rows with the same fault: {reason}"
            _fault(staging, file, 0, column, "", more, FaultCode.UNKNOWN_ROLE, left)


def _fault(
    staging: Staging,
    file: str,
    line: int,
    column: str,
    value_class: str,
    reason: str,
    code: FaultCode,
    count: int = 1,
) -> None:
    staging.faults.append(Fault(file, line, column, value_class, reason, code=code, count=count))
