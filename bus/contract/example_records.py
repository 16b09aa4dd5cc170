"""Valid records of the standard for tests: with given values, or drawn by hypothesis.

The drawn records are as unusual as the schemas allow.
"""

from __future__ import annotations

from datetime import UTC, date, datetime
from functools import cache, partial
from typing import Any

from hypothesis import strategies as st

from bus.standard import KINDS

TEXT = st.text(
    st.characters(blacklist_categories=["Cs", "Cc"]) | st.sampled_from(list(",\"'\n;\\")),
    max_size=40,
)
NAMES = TEXT.filter(lambda text: bool(text.strip()))
IDS = st.text("abcdefghijklmnopqrstuvwxyz0123456789-", min_size=1, max_size=12)
DATES = st.dates(date(1990, 1, 1), date(2100, 12, 31))
TIMES = st.datetimes(datetime(1990, 1, 1), datetime(2100, 1, 1), timezones=st.just(UTC)).map(
    lambda time: time.replace(microsecond=time.microsecond // 1000 * 1000)
)


SAID: dict[str, dict[str, Any]] = {
    "academicSession": {"startDate": date(2026, 8, 17), "endDate": date(2026, 12, 18)},
    "student": {"givenName": "Zoë", "familyName": "O'Brien"},
    "staff": {"givenName": "Ravi", "familyName": "Nguyễn", "role": "teacher"},
    "guardian": {"givenName": "Rosa", "familyName": "Díaz", "role": "guardian"},
    "enrollment": {"role": "student"},
    "attendance": {"eventDate": date(2026, 11, 24), "attendanceEventCategory": "tardy"},
    "result": {"scoreDate": date(2026, 11, 24), "scoreStatus": "fullyGraded"},
    "class": {"classType": "scheduled"},
    "org": {"type": "school"},
    "optOut": {"scope": "directoryInformation", "decidedBy": "parent"},
}


def a_record(kind: str, **said: Any) -> dict[str, Any]:
    """Return a valid record of a kind: `a_record("student", sourcedId="s1", grades=["07"])`."""
    record: dict[str, Any] = {}
    for field in KINDS[kind].schema["fields"]:
        name = field["name"]
        if "default" in field:
            default = field["default"]
            record[name] = list(default) if isinstance(default, list) else default
        elif name == "status":
            record[name] = "active"
        elif field["type"] == "string":
            record[name] = f"{name}-1"
        elif isinstance(field["type"], dict) and field["type"]["type"] == "enum":
            record[name] = field["type"]["default"]
    return record | SAID.get(kind, {}) | said


def records(kind: str, **said: st.SearchStrategy[Any]) -> st.SearchStrategy[dict[str, Any]]:
    """Return a strategy for records of a kind.

    said: strategies for the fields that the test cares about.
    """
    fields = {name: said.get(name, field) for name, field in _fields(kind).items()}
    return st.fixed_dictionaries(fields).map(partial(_combined, kind))


@cache  # hypothesis takes longer to build the strategies than to draw a record
def _fields(kind: str) -> dict[str, st.SearchStrategy[Any]]:
    """Return the strategy for each field of a kind."""
    return {field["name"]: _field(field) for field in KINDS[kind].schema["fields"]}


def _combined(kind: str, record: dict[str, Any]) -> dict[str, Any]:
    """Return a record in which fields with the attribute `when` fit the other fields."""
    for name, when in KINDS[kind].when.items():
        if any(record[other] != value for other, value in when.items()):
            record[name] = None
        elif not (record[name] or "").strip():
            record[name] = f"{name}-1"
    return record


def _field(field: dict[str, Any]) -> st.SearchStrategy[Any]:
    if field["name"].endswith("SourcedIds"):
        return st.lists(IDS, max_size=3, unique=True)
    if field["name"].endswith("ourcedId"):
        return IDS if "default" not in field else st.none() | IDS
    if field["type"] == "string":
        return NAMES
    return _value(field["type"])


def _value(avro: Any) -> st.SearchStrategy[Any]:
    if isinstance(avro, list):
        return st.one_of([_value(part) for part in avro])
    if isinstance(avro, dict) and avro["type"] == "enum":
        return st.sampled_from(avro["symbols"])
    if isinstance(avro, dict) and avro["type"] == "array":
        return st.lists(_value(avro["items"]), max_size=3)
    if isinstance(avro, dict):
        return DATES if avro["logicalType"] == "date" else TIMES
    plain: dict[str, st.SearchStrategy[Any]] = {
        "null": st.none(),
        "string": TEXT,
        "int": st.integers(1990, 2100),
        "double": st.floats(0, 1000, allow_nan=False),
        "boolean": st.booleans(),
    }
    return plain[avro]
