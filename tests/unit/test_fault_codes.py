"""The codes of faults: one table, its page, and faults of earlier versions without codes."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

from bus.ingest.coercion import reading
from bus.standard import KINDS
from bus.standard.fault_codes import CODE, FaultCode, Reason, code_of, code_of_earlier
from tests.oneroster_files import extract, staged

ROOT = Path(__file__).parents[2]
PAGE = ROOT / "docs" / "faults.md"


def test_the_page_has_each_code_with_its_meaning() -> None:
    rows = re.findall(r"^\| `([^`]+)` \| (.+) \|$", PAGE.read_text("utf-8"), re.MULTILINE)
    assert rows == [(code.value, code.meaning) for code in FaultCode]


def test_each_code_looks_like_one_and_has_one_line() -> None:
    for code in FaultCode:
        assert re.fullmatch(CODE, code)
        assert code.meaning.endswith(".") and len(code.meaning) <= 80


def test_each_code_is_used() -> None:
    table = ROOT / "bus" / "standard" / "fault_codes.py"
    texts = [
        path.read_text("utf-8")
        for folder in ("bus", "producers", "consumers")
        for path in (ROOT / folder).rglob("*.py")
        if path != table
    ]
    assert [code.name for code in FaultCode if not any(code.name in text for text in texts)] == []


def test_a_reason_has_its_code_and_a_bare_text_the_general_one() -> None:
    assert code_of(Reason("too long", "too-long")) == "too-long"
    assert code_of("no card") == "other"


@pytest.mark.parametrize(
    ("text", "code"),
    [
        ("is required and empty; the row was left out; mend it", "missing-value"),
        ("names a course that is no valid, active record of this extract", "unknown-reference"),
        ("names an org that is no valid, active record", "unknown-reference"),
        ("29,000 more rows like those told: is no date of the years 1900 to 2200", "not-a-date"),
        ("is none of bulk, delta, absent; it was read as delta", "unknown-declaration"),
        ("is none of active, tobedeleted; the row was left out", "not-in-list"),
        ("has the id of line 5 of more.csv, which was kept, and other values", "duplicate-id"),
        ("column 12 is none of OneRoster's; it was not read", "unknown-column"),
        ("in the replay canvas-1: the endpoint refused it with status 422", "refused"),
        ("enrollment e1 refers to class c1, which was not delivered within 60 s; publish that",
         "reference-not-delivered"),
        ("has not four values; mend the line", "other"),
    ],
)  # fmt: skip
def test_a_text_of_version_0_1_0_has_the_code_of_its_sort(text: str, code: str) -> None:
    assert code_of_earlier(text) == code


@pytest.mark.parametrize("kind", KINDS)
def test_each_sort_of_fault_in_a_value_has_a_code(kind: str) -> None:
    _, sorts = reading(kind, "raw", KINDS[kind].fields)
    assert [sort for sort in sorts if sort.code == FaultCode.OTHER] == []


def test_each_fault_of_an_extract_has_a_code(tmp_path: Path) -> None:
    """The files have as many different faults as possible."""
    users = "sourcedId,status,role,givenName,planet,famlyName,role\n"
    path = extract(
        tmp_path / "extract",
        manifest="propertyName,value\noneroster.version,7\nfile.orgs,half\nfile.users,bulk\n"
        "file.courses,absent\nfile.classes,bulk\n",
        orgs="sourcedId;name;type\no1;Zoë\0;school\n".encode("cp1252"),
        users=f"{users}u1,,wizard,Ada,,,\nu2,,student\nu3,,student,A,,,,,,x\nu4,\"a\"b,s,A,,,\n",
        courses="sourcedId\nc1\n",
        lineItems="nothing\n",
        menu="a\n",
    )  # fmt: skip
    staging = staged(path, tmp_path / "work")
    codes = {fault.code for fault in staging.faults}
    assert FaultCode.OTHER not in codes
    assert codes == {
        *("unknown-declaration", "missing-file", "unexpected-file", "unknown-file"),
        *("undeclared-file", "not-utf-8", "nul-characters", "other-delimiter", "no-header"),
        *("unknown-column", "misspelt-column", "repeated-column", "unknown-role"),
        *("too-few-values", "too-many-values", "broken-quotes"),
    }
