"""The shared standard: what the .avsc in `schemas/` say, for Python.

The schemas are the one source. `KINDS` holds what the bus needs to know of each kind of record,
`bus.standard.records` the Python types (generated; see `bus.standard.generate`).
"""

from bus.standard.kinds import KINDS, Kind, Record
from bus.standard.records import (
    AcademicSession,
    Attendance,
    Class,
    Course,
    Demographics,
    Enrollment,
    Guardian,
    LineItem,
    Org,
    Result,
    Staff,
    Student,
)

__all__ = [
    "KINDS",
    "AcademicSession",
    "Attendance",
    "Class",
    "Course",
    "Demographics",
    "Enrollment",
    "Guardian",
    "Kind",
    "LineItem",
    "Org",
    "Record",
    "Result",
    "Staff",
    "Student",
]
