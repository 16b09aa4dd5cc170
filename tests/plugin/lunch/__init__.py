"""The product `lunch`: who eats where, as two CSV files in a folder for the lunchroom's program.

A product in a package of its own. It imports nothing of Schoolbus but what docs/python-api.md lists.
"""

from __future__ import annotations

from pathlib import Path

from pydantic import BaseModel, ConfigDict

from bus import Delivery, Never, Product, Row, Stop, Table
from bus.standard import Enrollment, Student
from lunch.folder import Folder

LONGEST = 40
EATS_NO_MORE = {"eats": ("no",)}
"""How the lunchroom knows that somebody is gone."""


def diner(record: Student) -> Row:
    """A student, by the name that the student wants to hear at the counter."""
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
    """In which school a student eats; the lunchroom is not told of other people."""
    if record["role"] != "student":
        return None
    return {
        "place": record["sourcedId"],
        "diner": record["userSourcedId"],
        "school": record["schoolSourcedId"],
        "eats": "yes" if record["status"] == "active" else "no",
    }


class Settings(BaseModel):
    """`out`: the folder of the two files; made if it is not there."""

    model_config = ConfigDict(extra="forbid", frozen=True)

    out: Path | None = None


def open_folder(settings: Settings) -> Delivery:
    """The delivery; `Stop` when no folder is named."""
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
