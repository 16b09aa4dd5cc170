"""The tests that every product must pass: its translation is pure, its delivery exact."""

from __future__ import annotations

import copy
from abc import abstractmethod
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from bus.consume.dependency_order import KindRecords
from bus.consume.translation import translate
from bus.contract.example_records import a_record, records
from bus.contract.fake_messages import Sent
from bus.delivery import Batch, Delivery, Overtaken, Position, Row, as_redelivery
from bus.errors import Never
from bus.product import Product
from bus.settings import registered_name
from bus.standard import KINDS


class ProductContract:
    """Subclass it in a test module, with `product`, `open` and `state`; see `bus.contract`."""

    product: Product

    @abstractmethod
    def open(self, folder: Path) -> Delivery:
        """Return a new delivery to the product that this folder represents, which may be empty."""

    @abstractmethod
    def state(self, folder: Path) -> Any:
        """Return what the product has now: any value that `==` can compare.

        The value is empty (false) if the product has nothing.
        """

    # ---- translation ---------------------------------------------------------------------------

    def test_the_names_are_in_order(self) -> None:
        """The product's name is valid, and each table has its own name."""
        registered_name("product", self.product.name)
        names = [table.name for table in self.product.tables]
        assert len(names) == len(set(names))
        assert {kind for table in self.product.tables for kind in table.rows} <= KINDS.keys()

    def test_equivalent_records_lie_in_one_partition_and_have_days(self) -> None:
        """The rule is decided within one partition, and its first and last days are dates."""
        for kind, rule in self.product.siblings.items():
            assert kind in self.product.kinds, f"Product.siblings has {kind}, which is in no table"
            fields = KINDS[kind].fields
            assert set(rule.fields) <= set(fields)
            assert KINDS[kind].owner in rule.fields, "add the kind's owner to the fields"
            types = {field["name"]: field["type"] for field in KINDS[kind].schema["fields"]}
            for day in filter(None, (rule.last, rule.first)):
                assert "'logicalType': 'date'" in str(types.get(day)), f"{day} is not a date"

    def test_who_has_left_gives_a_unique_value_back(self) -> None:
        """Rows of withdrawn records lack the unique value.

        A record can also be translated without the value.
        """
        value = "the-only-one"
        for kind, field in self.product.unique.items():
            assert field in KINDS[kind].fields, (
                f"Product.unique names {field}; {kind} has no such field"
            )
            record = a_record(kind, **{field: value})
            for table, function in self.product.translations(kind):
                rows = function({**record, "status": "tobedeleted"})
                assert value not in repr(rows), f"{table.name}: a withdrawn record keeps {field}"
                function({**record, field: None})

    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_translations_are_pure_and_fit_their_tables(self, data: st.DataObject) -> None:
        """The same record gives the same row and is not changed; columns are in order."""
        kind = data.draw(st.sampled_from(self.product.kinds))
        record = data.draw(records(kind))
        before = copy.deepcopy(record)
        for table, function in self.product.translations(kind):
            try:
                row = function(record)
            except Never as reason:
                assert str(reason)
                continue
            assert record == before, f"{table.name} changes the record"
            assert function(copy.deepcopy(record)) == row, f"{table.name} is not pure"
            if table.columns:
                for one in _rows(row):
                    assert tuple(one) == table.columns

    @settings(suppress_health_check=list(HealthCheck), deadline=None)
    @given(data=st.data())
    def test_withdrawn_rows_are_declared(self, data: st.DataObject) -> None:
        """Each row that a withdrawal changes is marked as removed by `Table.gone`.

        `bus reconcile` uses `Table.gone` to find the product's rows of removed things.
        """
        kind = data.draw(st.sampled_from(self.product.kinds))
        record = data.draw(records(kind))
        for table, function in self.product.translations(kind):
            try:
                before = _rows(function(record | {"status": "active"}))
                after = _rows(function(record | {"status": "tobedeleted"}))
            except Never:
                continue
            kept = [row for row in after if row not in before and not table.is_gone(row)]
            assert not kept, (
                f"{table.name} has a row of a withdrawn {kind} that is not marked as removed; add "
                "the column and its value to Table.gone, as in gone={'status': ('deleted',)}"
            )

    def test_active_rows_are_not_withdrawn(self) -> None:
        """`Table.gone` names columns of its table and never marks a row of an active record."""
        for table in self.product.tables:
            if table.columns:
                assert table.gone.keys() <= set(table.columns), (
                    f"Table.gone of {table.name} names an unknown column"
                )
            assert not any(isinstance(values, str) for values in table.gone.values()), (
                f"the values in Table.gone of {table.name} must be a tuple: ('deleted',)"
            )
        for kind, found in _district().items():
            for table, function in self.product.translations(kind):
                for row in (row for record in found for row in _rows(function(record))):
                    assert not table.is_gone(row), f"{table.name} marks an active {kind} as removed"

    # ---- delivery ------------------------------------------------------------------------------

    def test_all_that_is_delivered_is_there(self, tmp_path: Path) -> None:
        """Delivering a small district leaves something at the product."""
        self._deliver(tmp_path, _batches())
        assert self.state(tmp_path)

    def test_delivering_again_changes_nothing(self, tmp_path: Path) -> None:
        """After a crash before the commit, a new delivery gets the same batch again."""
        self._deliver(tmp_path, _batches())
        once = self.state(tmp_path)
        self._deliver(tmp_path, _batches(), honour_resume=True)
        assert self.state(tmp_path) == once

    def test_one_batch_or_many_is_the_same(self, tmp_path: Path) -> None:
        """The product does not depend on how records are divided into batches."""
        (tmp_path / "one").mkdir()
        (tmp_path / "many").mkdir()
        self._deliver(tmp_path / "one", _batches())
        for kind, batch in _batches().items():
            self._deliver(tmp_path / "many", {kind: batch})
        assert self.state(tmp_path / "many") == self.state(tmp_path / "one")

    def test_a_restart_goes_on_where_it_was(self, tmp_path: Path) -> None:
        """`resume` never answers an offset beyond what was delivered."""
        end = self._deliver(tmp_path, _batches())
        delivery = self.open(tmp_path)
        try:
            for place, offset in delivery.resume("cluster", list(end)).items():
                assert 0 <= offset <= end[place]
        finally:
            delivery.close()

    def test_a_withdrawal_reaches_the_product(self, tmp_path: Path) -> None:
        """Withdrawing a student and an enrollment changes the product."""
        self._deliver(tmp_path, _batches())
        before = self.state(tmp_path)
        gone = {
            kind: [record | {"status": "tobedeleted"} for record in _district()[kind][:1]]
            for kind in ("student", "enrollment")
        }
        self._deliver(tmp_path, _batches(gone, start=100))
        assert self.state(tmp_path) != before

    def test_a_later_state_replaces_the_earlier(self, tmp_path: Path) -> None:
        """The last state of a record counts, also within one batch."""
        renamed = _district()["student"][0] | {"familyName": "Changed", "preferredLastName": None}
        self._deliver(tmp_path, _batches())
        first = self.state(tmp_path)
        self._deliver(
            tmp_path, _batches({"student": [renamed, _district()["student"][0]]}, start=100)
        )
        assert _latest(self.state(tmp_path)) == _latest(first)
        self._deliver(tmp_path, _batches({"student": [renamed]}, start=200))
        assert _latest(self.state(tmp_path)) != _latest(first)

    def test_a_replay_of_what_is_there_changes_nothing(self, tmp_path: Path) -> None:
        """A replay of delivered records changes nothing, also if a crash repeats it."""
        offsets = self._deliver(tmp_path, _batches())
        before = _latest(self.state(tmp_path))
        for _ in range(2):
            self._redeliver(tmp_path, _batches(), seen=offsets)
        assert _latest(self.state(tmp_path)) == before

    def test_a_replay_does_not_go_back_behind_what_is_live(self, tmp_path: Path) -> None:
        """A delivery that knows the live consumer's offsets refuses an older replay.

        Other deliveries receive newer states in another way (`bus.delivery.Unlocked`).
        """
        offsets = self._deliver(tmp_path, _batches())
        delivery = self.open(tmp_path)
        try:
            knows = bool(delivery.resume("cluster", list(offsets)))
        finally:
            delivery.close()
        if knows:
            before = self.state(tmp_path)
            with pytest.raises(Overtaken):
                self._redeliver(tmp_path, _batches(), seen=dict.fromkeys(offsets, 0))
            assert self.state(tmp_path) == before

    def _redeliver(
        self, folder: Path, by_kind: dict[str, KindRecords], seen: Mapping[Position, int]
    ) -> None:
        """Hand over records as a replay does, with a separate delivery."""
        delivery = self.open(folder)
        try:
            redelivery = as_redelivery(delivery)
            if redelivery is None:
                pytest.skip("the delivery does not support replays")
            wanted = {kind: batch for kind, batch in by_kind.items() if kind in self.product.kinds}
            parts, _, _ = translate(self.product, wanted)
            assert not list(redelivery.redeliver(Batch(parts, seen), "replay-1", seen))
            delivery.settle()
        finally:
            delivery.close()

    def _deliver(
        self, folder: Path, by_kind: dict[str, KindRecords], honour_resume: bool = False
    ) -> dict[Position, int]:
        """Hand over records as the consumer does; return the offsets after them."""
        by_kind = {kind: batch for kind, batch in by_kind.items() if kind in self.product.kinds}
        offsets = {
            Position(m.topic() or "", m.partition() or 0): (m.offset() or 0) + 1
            for batch in by_kind.values()
            for m in batch.messages
        }
        delivery = self.open(folder)
        try:
            resumed = delivery.resume("cluster", list(offsets))
            if honour_resume:
                by_kind = {kind: _after(batch, resumed) for kind, batch in by_kind.items()}
            parts, _, dead_letters = translate(self.product, by_kind)
            assert not dead_letters
            if parts:
                assert not list(delivery.deliver(Batch(parts, offsets)))
            delivery.settle()
        finally:
            delivery.close()
        return offsets


def _rows(made: Any) -> list[Row]:
    """Return the rows of a translation as a list."""
    if isinstance(made, list):
        return made
    return [] if made is None else [made]


def _latest(state: Any) -> Any:
    """Return the state as a mapping; of a log of (thing, state), the last state of each thing."""
    return dict(state) if isinstance(state, list) else state


def _after(batch: KindRecords, resumed: Any) -> KindRecords:
    """Return the records that the consumer would still read if it continues at these offsets."""
    kept = KindRecords()
    for record, message in zip(batch.records, batch.messages, strict=True):
        place = Position(message.topic() or "", message.partition() or 0)
        if (message.offset() or 0) >= resumed.get(place, 0):
            kept.add(record, message)
    return kept


def _batches(
    district: dict[str, list[dict[str, Any]]] | None = None, start: int = 0
) -> dict[str, KindRecords]:
    """Return records with fake messages, for each kind; by default those of the small district."""
    made = {}
    for kind in KINDS:
        found = (district or _district()).get(kind, [])
        if found:
            messages = [Sent(kind, r["sourcedId"], start + i) for i, r in enumerate(found)]
            made[kind] = KindRecords(list(found), messages)  # type: ignore[arg-type]
    return made


def _district() -> dict[str, list[dict[str, Any]]]:
    """Return new records of two orgs, a class, two students and a teacher."""
    district = a_record("org", sourcedId="d", name="District", type="district")
    school = a_record("org", sourcedId="s", name="Oak School", parentSourcedId="d")
    year = a_record("academicSession", sourcedId="y", title="2026-2027", type="schoolYear")
    course = a_record("course", sourcedId="co", title="Art", orgSourcedId="d")
    class_ = a_record("class", sourcedId="c", title='Art "7"', courseSourcedId="co")
    class_ |= {"schoolSourcedId": "s", "termSourcedIds": ["y"]}
    people = {
        id_: {
            "sourcedId": id_,
            "givenName": name,
            "username": id_,
            "email": f"{id_}@example.org",
            "orgSourcedIds": ["s"],
            "grades": ["07"],
        }
        for id_, name in (("st1", "Zoë"), ("st2", "Ana, María"), ("t", "Ravi"))
    }
    place = {"classSourcedId": "c", "schoolSourcedId": "s"}
    enrollments = [
        a_record("enrollment", sourcedId=f"e-{id_}", userSourcedId=id_, role=role, **place)
        for id_, role in (("st1", "student"), ("st2", "student"), ("t", "teacher"))
    ]
    tardy = a_record("attendance", sourcedId="a1", studentSourcedId="st1", schoolSourcedId="s")
    return {
        "org": [district, school],
        "academicSession": [year],
        "course": [course],
        "class": [class_],
        "student": [a_record("student", **people["st1"]), a_record("student", **people["st2"])],
        "staff": [a_record("staff", **people["t"])],
        "enrollment": enrollments,
        "attendance": [tardy],
    }
