"""What a product has, compared with the topics, without Kafka.

This includes which rows of withdrawn records count as differences.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from bus.cli.reconcile import _remarks
from bus.contract import ProductContract
from bus.delivery import Row, Table
from bus.product import Product
from bus.replay.compare import reconcile
from bus.replay.product_rows import Differences
from consumers import canvas
from consumers.delivery.csv_zip import Layout
from consumers.delivery.zip_folder import ZipFolder
from tests.fakes.harness import Bus

NO_MORE = {"eats": ("no", "moved")}
"""The lunchroom's program writes `moved` itself."""


def diner(record: Any) -> Row:
    return {
        "diner": record["sourcedId"],
        "name": record["givenName"],
        "eats": "yes" if record["status"] == "active" else "no",
    }


def present(record: Any) -> Row | None:
    return diner(record) if record["status"] == "active" else None


def lunch(translate: Any = diner, gone: Mapping[str, tuple[str, ...]] = NO_MORE) -> Product:
    diners = Table(
        "diners.csv", ("diner", "name", "eats"), {"student": translate}, ("diner",), gone
    )
    return replace(canvas.PRODUCT, name="lunch", tables=(diners,))


@pytest.fixture
def bus(monkeypatch: pytest.MonkeyPatch) -> Bus:
    """Return a bus on which Ann eats here, and Bob no longer does."""
    bus = Bus(monkeypatch)
    bus.publish("student", "ann", givenName="Ann")
    bus.publish("student", "bob", givenName="Bob")
    bus.publish("student", "bob", givenName="Bob", status="tobedeleted")
    return bus


def compared(
    bus: Bus, folder: Path, product: Product, **has: str
) -> tuple[list[tuple[Any, ...]], dict[str, set[str]], Differences]:
    """Return the differences (what, key), the records concerned, and the whole result.

    has: the text of each exported file.
    """
    export = folder / "export"
    export.mkdir()
    for name, text in has.items():
        (export / f"{name}.csv").write_text(text.replace(" ", "\n"), encoding="utf-8")
    found, concerned = reconcile(
        bus.settings, product, export, lambda out: ZipFolder(out, product.name, Layout())
    )
    return [(one.what, *one.key) for one in found.found], concerned, found


@pytest.mark.parametrize(
    ("translate", "gone"),
    [(diner, NO_MORE), (diner, {}), (present, NO_MORE)],
    ids=["declared", "as delivered", "no row"],
)
def test_a_row_of_a_withdrawn_record_is_no_difference(
    bus: Bus, tmp_path: Path, translate: Any, gone: Any
) -> None:
    has = "diner,name,eats ann,Ann,yes" + (" bob,Bob,no" if translate is diner else "")
    differences, concerned, _ = compared(bus, tmp_path, lunch(translate, gone), diners=has)
    assert (differences, concerned) == ([], {})


@pytest.mark.parametrize("translate", [diner, present])
def test_a_row_that_should_be_withdrawn_is_extra_and_its_record_is_known(
    bus: Bus, tmp_path: Path, translate: Any
) -> None:
    has = "diner,name,eats ann,Ann,yes bob,Bob,yes"
    differences, concerned, found = compared(bus, tmp_path, lunch(translate), diners=has)
    assert differences == [("extra", "bob")]
    assert (concerned, found.unknown) == ({"student": {"bob"}}, 0)


def test_an_active_record_that_the_product_marks_as_withdrawn_is_missing(
    bus: Bus, tmp_path: Path
) -> None:
    has = "diner,name,eats ann,Ann,moved bob,Bob,no"
    differences, concerned, _ = compared(bus, tmp_path, lunch(), diners=has)
    assert (differences, concerned) == ([("missing", "ann")], {"student": {"ann"}})


def test_rows_without_a_record_count_only_if_they_are_not_marked_as_withdrawn(
    bus: Bus, tmp_path: Path
) -> None:
    has = "diner,name,eats ann,Ann,yes cy,Cy,yes dan,Dan,moved"
    differences, concerned, found = compared(bus, tmp_path, lunch(), diners=has)
    assert (differences, concerned, found.unknown) == ([("extra", "cy")], {}, 1)


def test_a_class_that_canvas_has_completed_keeps_its_section(bus: Bus, tmp_path: Path) -> None:
    """Canvas keeps the section of a completed course as it is, and so do the rows."""
    bus.publish("class", "c1", title="Art")
    bus.publish("class", "c1", title="Art", status="tobedeleted")
    bus.publish("class", "c2", title="Pottery")
    bus.publish("class", "c2", title="Pottery", status="tobedeleted")
    product = replace(canvas.PRODUCT, tables=(canvas.COURSES, canvas.SECTIONS))
    differences, concerned, _ = compared(
        bus,
        tmp_path,
        product,
        courses="course_id,long_name,status c1,Art,completed c2,Pottery,active",
        sections="section_id,course_id,name,status c1,c1,Art,active c2,c2,Pottery,active",
    )
    assert (differences, concerned) == ([("extra", "c2")], {"class": {"c2"}})


# ---- what a product must declare ----------------------------------------------------------------


class Contract(ProductContract):
    """The tests of the contract suite, for a product that a test names."""

    @settings(phases=[Phase.generate], suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_withdrawn_rows_are_declared(self, data: st.DataObject) -> None:
        """Skip the search for the simplest record, which is slow and does not change the outcome."""
        ProductContract.test_withdrawn_rows_are_declared.hypothesis.inner_test(self, data)  # type: ignore[attr-defined]


@pytest.mark.parametrize(
    ("product", "test", "wrong"),
    [
        (lunch(gone={}), "test_withdrawn_rows_are_declared", "that is not marked as removed"),
        (
            lunch(gone={"eat": ("no",)}),
            "test_active_rows_are_not_withdrawn",
            "names an unknown column",
        ),
        (lunch(gone={"eats": ("yes",)}), "test_active_rows_are_not_withdrawn", "as removed"),
        (lunch(gone={"eats": "no"}), "test_active_rows_are_not_withdrawn", "must be a tuple"),  # type: ignore[dict-item]
    ],
)
def test_the_contract_requires_the_values_that_mark_withdrawn_rows(
    product: Product, test: str, wrong: str
) -> None:
    contract = Contract()
    contract.product = product
    with pytest.raises(AssertionError, match=wrong):
        getattr(contract, test)()


@pytest.mark.parametrize("translate", [diner, present])
def test_the_contract_takes_what_is_declared(translate: Any) -> None:
    contract = Contract()
    contract.product = lunch(translate)
    contract.test_withdrawn_rows_are_declared()
    contract.test_active_rows_are_not_withdrawn()


# ---- what is reported ---------------------------------------------------------------------------


def test_a_repair_says_what_it_sent_and_what_it_could_not() -> None:
    repaired = {"id": "lunch-1", "status": "done", "left_out": 1, "delivered": {"student": 1_200}}
    reported = _remarks("lunch", Differences(unknown=2), 1_201, repaired, repair=True)
    assert reported[0].startswith("repaired: lunch got 1,200 student again")
    assert "replay lunch-1: done" in reported[0]
    assert "bus deadletters list lunch" in reported[1]
    assert reported[2].startswith("2 of the differences come from no record in the topics")


def test_a_repair_that_did_not_end_says_how_to_go_on() -> None:
    repaired = {"id": "lunch-1", "status": "paused", "left_out": 0, "delivered": {}}
    reported = _remarks("lunch", Differences(), 5, repaired, repair=True)
    assert "got nothing again" in reported[0]
    assert reported[1].endswith("bus replay resume lunch-1")


def test_without_a_repair_it_says_what_one_would_send() -> None:
    assert _remarks("lunch", Differences(), 5, None, repair=False) == [
        "--repair delivers these 5 records again"
    ]
    assert _remarks("lunch", Differences(), 0, None, repair=True) == []
