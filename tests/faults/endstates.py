"""What each product must hold in the end, computed from the extracts, and what it holds."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any

from tests import canvas_model, sds_model
from tests.faults.district import FILES, KINDS, PEOPLE, Expected, Row
from tests.webhook_receiver import Received

CANVAS_ROLES = {"student": "student", "teacher": "teacher", "aide": "ta"}
SDS_ROLES = {"aide": "paraprofessional"}
COLUMNS = {
    kind: [
        name
        for name in ("sourcedId", "status", *FILES[file].split())
        if name != "enabledUser" and (name != "role" or kind != "student")
    ]
    for kind, file in KINDS.items()
}
"""The columns of each kind that are delivered as text."""

State = dict[str, Any]


def _active(expected: Expected, kind: str) -> dict[str, Row]:
    return {id_: expected.records[kind, id_] for k, id_ in sorted(expected.active) if k == kind}


def _people(expected: Expected) -> dict[str, Row]:
    return {id_: row for kind in PEOPLE for id_, row in _active(expected, kind).items()}


def _users(expected: Expected) -> dict[str, Row]:
    """Return the people who may sign in."""
    return {id_: row for id_, row in _people(expected).items() if row["enabledUser"] == "true"}


CONTESTED = "several people have this username"


def _login(expected: Expected, person: Row) -> str:
    """Return the username, or `CONTESTED` if another active person has the same one.

    This happens when the row that changes the other person's username is in quarantine. Then only
    one of them has it, and the others have their ids.
    """
    usernames = [row["username"] for row in _people(expected).values()]
    return CONTESTED if usernames.count(person["username"]) > 1 else person["username"]


def _or_contested(contested: Mapping[str, str], login: str, id_: str) -> str:
    return CONTESTED if login in (contested.get(id_), id_) and id_ in contested else login


def canvas(expected: Expected) -> State:
    """Return what Canvas must have.

    These are the active rosters with their dates, the names of active records, and the users whom
    it must have suspended: all people that the extracts ever had and who may not sign in.
    """
    users, classes = _users(expected), _active(expected, "class")
    return {
        "accounts": {
            i: (r["name"], r["parentSourcedId"]) for i, r in _active(expected, "org").items()
        },
        "terms": {i: r["title"] for i, r in _active(expected, "academicSession").items()},
        "courses": {
            i: (
                r["title"],
                r["schoolSourcedId"],
                r["termSourcedIds"] if "," not in r["termSourcedIds"] else "",
            )
            for i, r in classes.items()
        },
        "users": {i: (r["givenName"], _login(expected, r)) for i, r in users.items()},
        "suspended": {i for kind, i in expected.records if kind in PEOPLE} - users.keys(),
        "rosters": {
            (klass, user, CANVAS_ROLES[role]): _dates(rows)
            for (klass, user, role), rows in _equivalent(_active(expected, "enrollment")).items()
            if klass in classes and user in users and role in CANVAS_ROLES
        },
    }


def _equivalent(enrollments: dict[str, Row]) -> dict[tuple[str, str, str], list[Row]]:
    """Group the enrollments that are equivalent records for Canvas, by class, person and role."""
    found: dict[tuple[str, str, str], list[Row]] = {}
    for row in enrollments.values():
        key = row["classSourcedId"], row["userSourcedId"], row["role"]
        found.setdefault(key, []).append(row)
    return found


def _dates(rows: list[Row]) -> tuple[str, str]:
    """Return the first and the last day of equivalent enrollments, as Canvas must have them.

    They are the earliest first day and the latest last day. Both are empty if one of the two is
    missing in any of the enrollments.
    """
    first, last = (
        "" if any(not row[name] for row in rows) else choose(row[name] for row in rows)
        for name, choose in (("beginDate", min), ("endDate", max))
    )
    return (first, last) if first and last else ("", "")


def canvas_has(state: canvas_model.State, mark: str, expected: Expected) -> State:
    """Return what Canvas holds, in the form of `canvas`.

    Accounts and terms are limited to active records, because Canvas does not delete the others at
    once.
    """

    def rows(name: str, *statuses: str) -> dict[str, Row]:
        return {
            key[0]: row
            for key, row in state[name].items()
            if key[0].startswith(mark) and row["status"] in statuses
        }

    active_ids = {id_ for _, id_ in expected.active}
    contested = {
        i: r["username"] for i, r in _people(expected).items() if _login(expected, r) == CONTESTED
    }
    return {
        "accounts": {
            i: (r["name"], r["parent_account_id"])
            for i, r in rows("accounts.csv", "active").items()
            if i in active_ids
        },
        "terms": {i: r["name"] for i, r in rows("terms.csv", "active").items() if i in active_ids},
        "courses": {
            i: (r["long_name"], r["account_id"], r["term_id"])
            for i, r in rows("courses.csv", "active").items()
        },
        "users": {
            i: (r["first_name"], _or_contested(contested, r["login_id"], i))
            for i, r in rows("users.csv", "active").items()
        },
        "suspended": set(rows("users.csv", "suspended")),
        "rosters": {
            one: (row["start_date"][:10], row["end_date"][:10])
            for one in canvas_model.rosters(state)
            if one[0].startswith(mark) and (row := state["enrollments.csv"][one])
        },
    }


def sds(expected: Expected) -> State:
    """Return the set that SDS must have, file by file.

    It refers only to rows that are in it, and has only people with a role.
    """
    orgs, sessions, users = (
        _active(expected, "org"),
        _active(expected, "academicSession"),
        _users(expected),
    )
    courses = {i: r for i, r in _active(expected, "course").items() if r["orgSourcedId"] in orgs}
    classes = {i: r for i, r in _active(expected, "class").items() if r["schoolSourcedId"] in orgs}
    roles = {
        (i, org, r["role"])
        for i, r in users.items()
        for org in r["orgSourcedIds"].split(",")
        if org in orgs
    }
    users = {i: r for i, r in users.items() if any(i == user for user, *_ in roles)}
    return {
        "orgs.csv": {
            i: (r["name"], r["parentSourcedId"] if r["parentSourcedId"] in orgs else "")
            for i, r in orgs.items()
        },
        "academicSessions.csv": {i: r["title"] for i, r in sessions.items()},
        "users.csv": {
            i: (r["givenName"], r["username"] if _first(users, r) == i else i)
            for i, r in users.items()
        },
        "roles.csv": roles,
        "courses.csv": {
            i: (
                r["title"],
                r["schoolYearSourcedId"] if r["schoolYearSourcedId"] in sessions else "",
            )
            for i, r in courses.items()
        },
        "classes.csv": {
            i: (
                r["title"],
                r["courseSourcedId"] if r["courseSourcedId"] in courses else "",
                ",".join(one for one in r["termSourcedIds"].split(",") if one in sessions),
            )
            for i, r in classes.items()
        },
        "enrollments.csv": {
            (r["classSourcedId"], r["userSourcedId"], SDS_ROLES.get(r["role"], r["role"]))
            for r in _active(expected, "enrollment").values()
            if r["classSourcedId"] in classes and r["userSourcedId"] in users
        },
    }


def _first(users: Mapping[str, Row], person: Row) -> str:
    """Return the id of the first user with a person's username."""
    return min(i for i, row in users.items() if row["username"] == person["username"])


def sds_has(state: sds_model.State, mark: str) -> State:
    """Return the set in the folder, in the form of `sds`."""

    def rows(name: str) -> dict[str, Row]:
        return {key[0]: row for key, row in state[name].items() if key[0].startswith(mark)}

    return {
        "orgs.csv": {i: (r["name"], r["parentSourcedId"]) for i, r in rows("orgs.csv").items()},
        "academicSessions.csv": {i: r["title"] for i, r in rows("academicSessions.csv").items()},
        "users.csv": {i: (r["givenName"], r["username"]) for i, r in rows("users.csv").items()},
        "roles.csv": {key[:3] for key in state["roles.csv"] if key[0].startswith(mark)},
        "courses.csv": {
            i: (r["title"], r["schoolYearSourcedId"]) for i, r in rows("courses.csv").items()
        },
        "classes.csv": {
            i: (r["title"], r["courseSourcedId"], r["sessionSourcedIds"])
            for i, r in rows("classes.csv").items()
        },
        "enrollments.csv": {key for key in state["enrollments.csv"] if key[0].startswith(mark)},
    }


def webhook(expected: Expected) -> State:
    """Return every active record, field by field."""
    return {
        kind: {
            id_: {name: row[name] for name in COLUMNS[kind] if row[name]}
            for id_, row in _active(expected, kind).items()
        }
        for kind in KINDS
    }


def webhook_has(events: Iterable[Received], mark: str) -> State:
    """Return the latest state of each record that a vendor accepted, in the form of `webhook`.

    An enrollment that moves to another person is withdrawn for the one and active for the other.
    The vendor receives these two events in any order, because they belong to different people.
    """
    latest: dict[tuple[str, str, str], dict[str, Any]] = {}
    seen: set[str] = set()
    for event in events:
        if event.id in seen:
            continue
        seen.add(event.id)
        kind, data = event.event["type"].partition(".")[0], event.data
        if data["sourcedId"].startswith(mark):
            latest[kind, data["sourcedId"], data.get("userSourcedId", "")] = data
    state: State = {kind: {} for kind in KINDS}
    for (kind, id_, _), data in latest.items():
        if data["status"] == "active":
            assert id_ not in state[kind], f"{kind} {id_} is active for two people"
            state[kind][id_] = {
                name: text for name in COLUMNS[kind] if (text := _text(data.get(name)))
            }
    return state


def _text(value: Any) -> str:
    return ",".join(value) if isinstance(value, list) else "" if value is None else str(value)
