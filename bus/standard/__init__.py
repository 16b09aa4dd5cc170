"""The shared standard in Python, as the .avsc files in `schemas/` define it.

The schemas are the only source. `KINDS` holds what the bus needs to know about each kind.
`bus.standard.records` holds the Python types, which `bus.standard.generate` writes.
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
    OptOut,
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
    "OptOut",
    "Org",
    "Record",
    "Result",
    "Staff",
    "Student",
]
