"""The codes of faults: what is wrong with an input or a record, for a program.

A code stays the same when its text is reworded. The quarantine recognizes a fault that it already
has by its code (`bus.ingest.quarantine`), and programs that count faults or dead letters use the
code too. `docs/faults.md` has the same table; `tests/unit/test_fault_codes.py` checks that the two
agree.

A code never changes its meaning and is never removed. A source or a product of a third party may
use one of these codes or its own: lowercase words with hyphens between them.
"""

from __future__ import annotations

import re
from enum import StrEnum

CODE = r"[a-z][a-z0-9]*(-[a-z0-9]+)*"
"""The pattern of a code."""


class FaultCode(StrEnum):
    """A code with its meaning."""

    meaning: str

    def __new__(cls, code: str, meaning: str) -> FaultCode:
        """Create a member from the code and the meaning that are listed below."""
        member = str.__new__(cls, code)
        member._value_ = code
        member.meaning = meaning
        return member

    OTHER = "other", "Reported without a code, for example by a third-party source or product."

    # Files of an extract
    NO_MANIFEST = "no-manifest", "The extract has no manifest.csv, or one that names no file."
    UNKNOWN_DECLARATION = "unknown-declaration", "manifest.csv has a value unknown to OneRoster."
    UNDECLARED_FILE = "undeclared-file", "The extract has a file that manifest.csv does not name."
    MISSING_FILE = "missing-file", "The extract lacks a file that manifest.csv declares."
    UNEXPECTED_FILE = "unexpected-file", "The extract has a file that manifest.csv declares absent."
    UNKNOWN_FILE = "unknown-file", "The extract has CSV files that OneRoster does not define."
    NOT_UTF_8 = "not-utf-8", "A file has an encoding other than UTF-8."
    NUL_CHARACTERS = "nul-characters", "A file has NUL characters."
    OTHER_DELIMITER = "other-delimiter", "A file's columns are not separated by commas."
    SEPARATOR_LINE = "separator-line", "A file begins with a sep= line, which is for Excel."

    # Columns of a file
    NO_HEADER = "no-header", "A file's first line is not a header that the bus knows."
    MISSING_COLUMN = "missing-column", "A file lacks a column that its records require."
    UNKNOWN_COLUMN = "unknown-column", "A file has a column that OneRoster does not define."
    MISSPELT_COLUMN = "misspelt-column", "A column's name is misspelled by one letter."
    REPEATED_COLUMN = "repeated-column", "A file has the same column twice."

    # Rows of a file
    BROKEN_QUOTES = "broken-quotes", "A row has a quote that does not open or close a value."
    UNREADABLE_BYTES = "unreadable-bytes", "A row has bytes that are not text in any encoding."
    TOO_FEW_VALUES = "too-few-values", "A row has fewer values than there are columns."
    TOO_MANY_VALUES = "too-many-values", "A row has more values than there are columns."
    UNKNOWN_ROLE = "unknown-role", "A user has a role that OneRoster does not define."
    REPEATED_ROW = "repeated-row", "A row repeats another row word for word."
    DUPLICATE_ID = "duplicate-id", "Two rows have the same id but different values."
    FOREIGN_ID = "foreign-id", "The id belongs to a record of another source."

    # Values
    MISSING_VALUE = "missing-value", "A required field is empty."
    NOT_AN_ID = "not-an-id", "An id is too long or has control characters."
    TOO_LONG = "too-long", "A value is longer than the bus accepts."
    CONTROL_CHARACTERS = "control-characters", "A value has characters that cannot be printed."
    NOT_IN_LIST = "not-in-list", "A value is not in the list of the standard."
    OUTDATED_VALUE = "outdated-value", "A value was removed in a later version of OneRoster."
    NOT_A_BOOLEAN = "not-a-boolean", "A value is neither true nor false."
    NOT_AN_INTEGER = "not-an-integer", "A value is not a whole number, or is too large."
    NOT_A_NUMBER = "not-a-number", "A value is not a number."
    NOT_A_DATE = "not-a-date", "A value is not a date of the years 1900 to 2200."
    NOT_A_MOMENT = "not-a-moment", "A value is not a moment of the years 1900 to 2200."

    # Fields that depend on each other
    WRONG_COMBINATION = (
        "wrong-combination",
        "A field that depends on another one is empty, or must be empty.",
    )

    # References between records
    UNKNOWN_REFERENCE = "unknown-reference", "A field names a record that does not exist."
    UNCHECKED_REFERENCE = (
        "unchecked-reference",
        "A field names a record of a kind that the source has never published.",
    )
    CIRCULAR_REFERENCE = "circular-reference", "A field leads back to the record itself."

    # Streamed records
    INVALID_RECORD = "invalid-record", "A streamed record does not fit the standard."

    # Records that a product did not receive
    UNDECODABLE = "undecodable", "A message's bytes are not a record of the topic's kind."
    REFERENCE_NOT_DELIVERED = (
        "reference-not-delivered",
        "A record that this one refers to was not delivered in time.",
    )
    UNTRANSLATABLE = "untranslatable", "The product cannot hold the record as it is."
    TRANSLATION_FAILED = "translation-failed", "The product's translation has a defect."
    REFUSED = "refused", "The product refused the record."
    ENDPOINT_FAILS = "endpoint-fails", "The endpoint kept failing for this record for too long."


class Reason(str):
    """Why a product does not receive a record: a text for a person, with its code."""

    code: str

    def __new__(cls, text: str, code: str) -> Reason:
        """Create a text with its code."""
        reason = super().__new__(cls, text)
        reason.code = code
        return reason


def code_of(reason: str) -> str:
    """Return the code of a reason; `other` for a text without a code."""
    return reason.code if isinstance(reason, Reason) else FaultCode.OTHER


_EARLIER: tuple[tuple[FaultCode, str], ...] = (
    (FaultCode.NO_MANIFEST, r"there is no manifest\.csv|manifest\.csv names no file"),
    (FaultCode.UNKNOWN_DECLARATION, r"the version is none of|is none of bulk, delta, absent"),
    (FaultCode.UNDECLARED_FILE, r"the manifest does not name it"),
    (FaultCode.MISSING_FILE, r"the manifest declares it as (bulk|delta), but"),
    (FaultCode.UNEXPECTED_FILE, r"the manifest declares it as absent"),
    (FaultCode.UNKNOWN_FILE, r"\d+ CSV files are none of OneRoster's"),
    (FaultCode.NOT_UTF_8, r"the file is (not UTF-8|UTF-16)"),
    (FaultCode.NUL_CHARACTERS, r"the file holds NUL characters"),
    (FaultCode.OTHER_DELIMITER, r"its columns are not separated by commas"),
    (FaultCode.NO_HEADER, r"has no header with a column"),
    (FaultCode.MISSING_COLUMN, r"has no column role"),
    (FaultCode.UNKNOWN_COLUMN, r"column \d+ is none of OneRoster's"),
    (FaultCode.MISSPELT_COLUMN, r"column \d+ is misspelt"),
    (FaultCode.REPEATED_COLUMN, r"column \d+ is a second"),
    (FaultCode.BROKEN_QUOTES, r"holds a quote that does not open or close"),
    (FaultCode.UNREADABLE_BYTES, r"holds bytes that are no text"),
    (FaultCode.TOO_FEW_VALUES, r"has fewer values than columns"),
    (FaultCode.TOO_MANY_VALUES, r"has more values than columns"),
    (FaultCode.UNKNOWN_ROLE, r"the role is none of"),
    (FaultCode.REPEATED_ROW, r"has the same id and the same values as"),
    (FaultCode.DUPLICATE_ID, r"has the id of .*, which was kept"),
    (FaultCode.FOREIGN_ID, r"is the id of a record of another source"),
    (FaultCode.MISSING_VALUE, r"is required and empty|is empty; it was read as"),
    (FaultCode.NOT_AN_ID, r"is no id: "),
    (FaultCode.TOO_LONG, r"is longer than [\d,]+ characters"),
    (FaultCode.CONTROL_CHARACTERS, r"holds control characters"),
    (FaultCode.OUTDATED_VALUE, r"is inactive, which OneRoster"),
    (FaultCode.NOT_A_BOOLEAN, r"is neither true nor false"),
    (FaultCode.NOT_AN_INTEGER, r"is no whole number"),
    (FaultCode.NOT_A_NUMBER, r"is no number"),
    (FaultCode.NOT_A_DATE, r"is no date of"),
    (FaultCode.NOT_A_MOMENT, r"is no moment of"),
    (FaultCode.NOT_IN_LIST, r"is none of "),
    (FaultCode.UNKNOWN_REFERENCE, r"names an? .* that is no valid, active record"),
    (FaultCode.CIRCULAR_REFERENCE, r"leads round in a circle"),
    (FaultCode.INVALID_RECORD, r"this is no \w+ of the standard"),
    (
        FaultCode.UNDECODABLE,
        r"an erasure \(tombstone\)|the bytes do not decode|bytes are left over"
        r"|the value is not Avro|schema \d+ in the registry|the registry has no schema",
    ),
    (FaultCode.REFERENCE_NOT_DELIVERED, r".* which was not delivered within"),
    (FaultCode.TRANSLATION_FAILED, r"the translation failed"),
    (FaultCode.REFUSED, r"the endpoint refused it|Canvas, \S+: "),
    (FaultCode.ENDPOINT_FAILS, r"the endpoint answered .* to it for"),
)
"""The beginnings of the texts of version 0.1.0, which stored no code. Do not change them: the
topics still hold messages of that version, and these texts are all that they say."""

_MORE = re.compile(r"[\d,]+ more rows like those told: ")
_REPLAYED = re.compile(r"in the replay \S+: ")


def code_of_earlier(text: str) -> FaultCode:
    """Return the code of a text of version 0.1.0; `other` for a text that the bus did not write."""
    bare = _REPLAYED.sub("", _MORE.sub("", text, count=1), count=1)
    for code, begins in _EARLIER:
        if re.match(begins, bare):
            return code
    return FaultCode.OTHER
