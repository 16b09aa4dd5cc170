"""Generate DuckDB SQL that converts grade levels to one spelling.

OneRoster 1.1 and 1.2 (User, Course and Class, "grades") use the codes of CEDS, "Entry Grade Level".
Systems spell grades in different ways, and some change the spelling from one day to the next. A
text that can mean only one grade becomes its code. A text that can mean two grades is kept as it
is: `0` is kindergarten in one system and pre-kindergarten in another.
"""

from __future__ import annotations

NUMBERED = tuple(f"{grade:02d}" for grade in range(1, 14))

GRADES = ("IT", "PR", "PK", "TK", "KG", *NUMBERED, "PS", "UG", "Other")
"""The codes, from infant or toddler to ungraded and other."""

SPELLINGS = {
    **{code.lower(): code for code in GRADES if code not in NUMBERED},
    **{"infanttoddler": "IT", "preschool": "PR", "prek": "PK", "prekindergarten": "PK"},
    **{"transitionalkindergarten": "TK", "k": "KG", "kindergarten": "KG"},
    **{"postsecondary": "PS", "ungraded": "UG"},
}
"""Texts that mean a code: in lower case, without spaces, hyphens, underscores and slashes."""

NUMBER = "(grade ?)?0{0,2}([1-9]|1[0-3])(st|nd|rd|th)?( ?grade)?"
"""A numbered grade in lower case (RE2): 1, 01, 001, 1st, 1st grade, grade 1."""


def code_of(text: str) -> str:
    """Return SQL for the code that a grade (SQL, trimmed) means, or for its text if unclear."""
    words = " ".join(f"WHEN '{spelling}' THEN '{code}'" for spelling, code in SPELLINGS.items())
    return (
        f"CASE WHEN {text} IN ({_listed()}) THEN {text} "
        f"WHEN regexp_full_match(lower({text}), '{NUMBER}') "
        f"THEN lpad(regexp_extract({text}, '[1-9][0-9]?'), 2, '0') "
        f"ELSE coalesce(CASE lower(translate({text}, ' -_/', '')) {words} END, {text}) END"
    )


def unlisted(text: str) -> str:
    """Return SQL that is true if a grade is none of the codes."""
    return f"{text} NOT IN ({_listed()})"


def _listed() -> str:
    return ", ".join(f"'{code}'" for code in GRADES)
