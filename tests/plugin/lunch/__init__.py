"""The product `lunch`: who eats where, as two CSV files in a folder for the lunchroom's program.

The product is in a separate package. It imports only those parts of Schoolbus that
docs/python-api.md lists.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bus import Delivery, Never, Product, Row, Stop, Table
from bus.standard import Enrollment, Student
from lunch.folder import Folder

LONGEST = 40
EATS_NO_MORE = {"eats": ("no",)}
"""The values with which the lunchroom marks a person who no longer eats there."""


def diner(record: Student) -> Row:
    """Return a student, with the name that the student prefers."""
    if len(record["sourcedId"]) > LONGEST:
        raise Never(f"the cashier's program takes ids of {LONGEST} characters at most")
    first = record["preferredFirstName"] or record["givenName"]
    last = record["preferredLastName"] or record["familyName"]
    return {
        "diner": record["sourcedId"],
        "name": f"{first} {last}",
        "grade": " ".join(record["grades"]),
        "eats": "yes" if record["status"] == "active" else "no",
    }


def place(record: Enrollment) -> Row | None:
    """Return the school in which a student eats, or None for other people."""
    if record["role"] != "student":
        return None
    return {
        "place": record["sourcedId"],
        "diner": record["userSourcedId"],
        "school": record["schoolSourcedId"],
        "eats": "yes" if record["status"] == "active" else "no",
    }


class Settings(BaseModel):
    """`out`: the folder of the two files, created if it does not exist."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None


def open_folder(settings: Settings) -> Delivery:
    """Return the delivery. Raises `Stop` when no folder is set."""
    if settings.out is None:
        raise Stop("lunch does not know where to deliver: name a folder (--out DIR)")
    return Folder(settings.out)


PRODUCT = Product(
    name="lunch",
    tables=(
        Table(
            "diners.csv",
            ("diner", "name", "grade", "eats"),
            {"student": diner},
            key=("diner",),
            gone=EATS_NO_MORE,
        ),
        Table(
            "places.csv",
            ("place", "diner", "school", "eats"),
            {"enrollment": place},
            key=("place",),
            gone=EATS_NO_MORE,
        ),
    ),
    settings=Settings,
    open=open_folder,
)
