"""Invisible characters, which come with copied text."""

from __future__ import annotations

import re
import sys
import unicodedata

import pytest

from bus.ingest.coercion import BLANK, INVISIBLE, MEANINGFUL
from tests.cases.district import CLASSES, USERS
from tests.cases.way_in import WayIn

EVERY = [chr(code) for code in range(sys.maxunicode + 1)]


def of(class_: str) -> set[str]:
    """Return the characters of a character class of RE2, found with Python's regular expressions."""
    python = re.sub(r"\\x\{([0-9a-f]+)\}", lambda found: f"\\U{found[1]:0>8}", class_)
    matches = re.compile(f"[{python}]").match
    return {character for character in EVERY if matches(character)}


def test_names_are_found_and_emails_are_reached(way_in: WayIn) -> None:
    """One name has U+200B in its middle, another has U+FEFF, and an email ends with U+00A0."""
    users = (
        USERS.replace("Mari,Tamm", "Ma\u200bri,Ta\ufeffmm")
        .replace("mtamm@example.test", "mtamm@example.test\u00a0")
        .replace("jlepik@example.test", "\u2003jlepik@\u00adexample.test\u2028")
    )
    day = way_in.day(users=users)
    mari, jaan = day.record("student", "u-1"), day.record("student", "u-2")
    assert (mari["givenName"], mari["familyName"]) == ("Mari", "Tamm")
    assert mari["email"] == "mtamm@example.test"
    assert jaan["email"] == "jlepik@example.test"
    assert day.faults == []
    assert way_in.day().reported == []


@pytest.mark.parametrize(
    "name",
    ["می\u200cخواهم", "क्\u200dष", "ᠮᠣᠩᠭᠣᠯ\u180eᠠ", "Geography 🏴\U000e0067\U000e0062\U000e007f"],
)
def test_what_letters_need_stays(way_in: WayIn, name: str) -> None:
    """U+200C in Persian, U+200D in Devanagari, U+180E in Mongolian, and the letters of a flag stay."""
    day = way_in.day(
        users=USERS.replace("Mari", name), classes=CLASSES.replace("Algebra 1 P2", name)
    )
    assert day.record("student", "u-1")["givenName"] == name
    assert day.record("class", "cl-1")["title"] == name


def test_directions_and_the_like_are_dropped_and_white_space_inside_stays(way_in: WayIn) -> None:
    day = way_in.day(users=USERS.replace("Mari", "\u202eAnna\u00a0\u2066Mari\u2069\u200f "))
    assert day.record("student", "u-1")["givenName"] == "Anna\u00a0Mari"


def test_a_name_of_nothing_that_shows_is_empty(way_in: WayIn) -> None:
    day = way_in.day(users=USERS.replace("Mari", "\u200b\u00a0\ufeff"))
    assert [(f.line, f.column, f.value_class) for f in day.left_out] == [
        (3, "givenName", "empty"),
        (2, "userSourcedId", "text of 3 characters"),
    ]


def test_ids_stay_as_they_are(way_in: WayIn) -> None:
    """A changed id would withdraw one record and create another."""
    day = way_in.day(users=USERS.replace("u-2,", "u-2\u200b,"))
    assert "student u-2\u200b created" in day.reported


def test_grades_and_dates_too(way_in: WayIn) -> None:
    day = way_in.day(users=USERS.replace(",,,,09,\n", ",,,,\u200b9\u00a0,\n", 1))
    assert (day.record("student", "u-1")["grades"], day.faults) == (["09"], [])


def test_what_is_dropped_is_unicodes_category_cf_but_what_is_listed() -> None:
    dropped, kept = of(INVISIBLE), of(MEANINGFUL)
    assert not dropped & kept
    formats = {character for character in EVERY if unicodedata.category(character) == "Cf"}
    assert formats <= dropped | kept
    # This Python may have an older Unicode version, in which a character is not assigned yet.
    assert {unicodedata.category(character) for character in dropped | kept} <= {"Cf", "Cn"}
    assert {"\u200c", "\u200d"} <= kept
    assert {"\u200b", "\ufeff", "\u2060", "\u00ad", "\u202e", "\u2066"} <= dropped


def test_white_space_is_unicodes() -> None:
    spaces = {c for c in EVERY if c.isspace()} - {"\x1c", "\x1d", "\x1e", "\x1f"}
    separators = "".join(c for c in EVERY if unicodedata.category(c).startswith("Z"))
    assert of(BLANK.replace(r"\p{Z}", re.escape(separators))) == spaces
