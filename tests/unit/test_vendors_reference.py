"""docs/agreements.md agrees with the models, and its examples have no problems."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.standard import KINDS
from bus.vendors.agreement import Agreement, Identifiers, load
from bus.vendors.agreement_reference import EXAMPLES, TABLES, TARGET, meanings_of, render
from bus.vendors.check import AgreementFile, Known, check
from bus.vendors.scope import compile_scope
from tests.agreements import DAY

NAMES = ["library", "math-app", "reading-study"]


def example(name: str) -> Agreement:
    return load(EXAMPLES / f"{name}.toml")


def test_the_page_is_up_to_date() -> None:
    assert TARGET.read_text("utf-8") == render(), "run python -m bus.vendors.agreement_reference"


def test_every_key_has_a_meaning() -> None:
    for model in TABLES.values():
        tables = {"document", "contacts", "share", "students", "subprocessors", "webhook", "csv"}
        plain = {*meanings_of(model)} - tables - {"deletion", "guard"}
        if model is TABLES["share"] or model is TABLES["guard"]:
            plain |= set(model.model_fields)
        assert {key for key in plain if not meanings_of(model)[key]} == set(), model


def test_there_are_three_examples() -> None:
    assert sorted(path.stem for path in EXAMPLES.glob("*.toml")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_each_example_is_in_order(name: str) -> None:
    file = AgreementFile(EXAMPLES / f"{name}.toml", example(name))
    assert check([file], KINDS, Known(DAY, {}, None, None)) == []


def test_the_examples_share_what_they_are_for() -> None:
    math, library, study = (
        {
            f"{kind}.{field}"
            for kind, about in compile_scope(example(name)).kinds.items()
            for field in about.fields
        }
        for name in ("math-app", "library", "reading-study")
    )
    assert {"student.givenName", "class.title", "enrollment.role", "staff.familyName"} <= math
    assert {"student.identifier", "student.familyName"} <= library
    assert {"attendance.eventDate", "result.score", "student.grades"} <= study
    assert not any(field.endswith(("Name", "birthDate", "email", "username")) for field in study)
    assert example("reading-study").identifiers is Identifiers.PSEUDONYMS
    assert example("math-app").identifiers is Identifiers.PSEUDONYMS


def test_the_page_shows_the_examples_whole() -> None:
    page = Path(TARGET).read_text("utf-8")
    assert all((EXAMPLES / f"{name}.toml").read_text("utf-8").strip() in page for name in NAMES)
