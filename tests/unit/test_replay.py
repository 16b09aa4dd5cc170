"""Which part of history is replayed, in which order, and how two states of a product differ."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any
from unittest.mock import patch

import pytest
from confluent_kafka import Message
from hypothesis import given
from hypothesis import strategies as st

from bus import plugins
from bus.cli.replay import per_second
from bus.contract import a_record
from bus.delivery import Batch, Part, Position
from bus.errors import Stop
from bus.kafka import reader
from bus.registry.codec import Encoder
from bus.replay import selection
from bus.replay.history import _Merge
from bus.replay.json_lines_folder import JsonLinesFolder
from bus.replay.latest import _Columns
from bus.replay.product_rows import ProductStates, RowOrigin, _same
from bus.replay.replay_log import ReplayEntry, ReplayRequest, ReplayState
from bus.replay.selection import Selection, select
from bus.replay.window import Window, moment
from bus.settings import KafkaSettings, Settings
from bus.standard import KINDS
from consumers.canvas import PRODUCT as CANVAS
from consumers.webhook import PRODUCT as WEBHOOK

SETTINGS = Settings(home=Path("nowhere"))
NAMED = Settings(kafka=KafkaSettings(bootstrap="nowhere:1"))
STUDENT, ENROLLMENT = Position("schoolbus.student", 0), Position("schoolbus.enrollment", 0)


# ---- the window -------------------------------------------------------------------------------


def test_a_time_without_a_zone_is_utc() -> None:
    assert moment("2026-03-01") == datetime(2026, 3, 1, tzinfo=UTC)
    assert moment("2026-03-01T07:00:00-06:00") == datetime(2026, 3, 1, 13, tzinfo=UTC)
    assert moment("last week") is None


def test_what_is_left_of_a_window() -> None:
    window = Window({STUDENT: 0, ENROLLMENT: 10}, {STUDENT: 5, ENROLLMENT: 20})
    assert len(window) == 15
    left = window.after({STUDENT: 5, ENROLLMENT: 12})
    assert (left.start, left.stop) == ({ENROLLMENT: 12}, {ENROLLMENT: 20})


# ---- the selection ----------------------------------------------------------------------------


def test_of_one_school() -> None:
    chosen = Selection(("student", "enrollment", "academicSession"), schools=("north",))
    assert chosen.has("student", {"orgSourcedIds": ["south", "north"]})
    assert not chosen.has("student", {"orgSourcedIds": ["south"]})
    assert chosen.has("enrollment", {"schoolSourcedId": "north"})
    assert chosen.has("academicSession", {})  # terms belong to every school
    assert not chosen.may_have("enrollment", b"e1", b"\x00 south")
    assert chosen.may_have("enrollment", b"e1", b"\x00 north")


def test_a_school_has_what_names_something_of_it() -> None:
    chosen = Selection(("lineItem", "result"), schools=("north",))
    chosen._members |= {"class": {"c1"}, "lineItem": {"l1"}}
    in_class = {"schoolSourcedId": None, "classSourcedId": "c1"}
    assert chosen.has("lineItem", in_class)
    assert not chosen.has("lineItem", in_class | {"schoolSourcedId": "south"})
    assert chosen.may_have("lineItem", b"l1", b"\x00 c1"), "its class decides, not its bytes"
    assert chosen.has("result", {"classSourcedId": "c1", "lineItemSourcedId": "l2"})
    assert not chosen.has("result", {"classSourcedId": "c2", "lineItemSourcedId": "l1"})
    assert chosen.has("result", {"classSourcedId": None, "lineItemSourcedId": "l1"})


def test_what_the_school_of_a_result_hangs_on_is_read_in_order(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """They are read even if students are selected as well, although a class belongs to no student."""
    class_ = a_record("class", sourcedId="c1", schoolSourcedId="north")
    item = a_record("lineItem", sourcedId="l1", classSourcedId="c1", schoolSourcedId=None)
    values = {
        "schoolbus.class": [Encoder("class", 7).encode(class_)],
        "schoolbus.lineItem": [Encoder("lineItem", 8).encode(item)],
        "schoolbus.student": [],
    }
    schemas = {7: KINDS["class"].schema, 8: KINDS["lineItem"].schema}
    monkeypatch.setattr(selection, "schema_lookup", lambda _: schemas.__getitem__)
    monkeypatch.setattr(
        selection,
        "scan",
        lambda _, topic: [Message(topic, 0, n, b"k", v) for n, v in enumerate(values[topic])],
    )
    chosen = select(SETTINGS, ["result"], schools=["north"], students=["s1"])
    of_north = {"classSourcedId": None, "lineItemSourcedId": "l1", "studentSourcedId": "s1"}
    assert chosen.has("result", of_north)
    assert not chosen.has("result", of_north | {"lineItemSourcedId": "l2"})
    assert not chosen.has("result", of_north | {"studentSourcedId": "s2"})


def test_of_one_student() -> None:
    chosen = select(SETTINGS, WEBHOOK.kinds, students=["s1"])
    assert "class" not in chosen.kinds
    assert chosen.has("enrollment", {"userSourcedId": "s1"})
    assert not chosen.has("attendance", {"studentSourcedId": "s2"})


def test_of_single_records() -> None:
    chosen = select(SETTINGS, CANVAS.kinds, records={"student": ["s1"]})
    assert chosen.kinds == ("student",)
    assert chosen.may_have("student", b"s1", b"")
    assert not chosen.may_have("student", b"s2", b"")


def test_a_kind_that_the_product_does_not_take_is_a_mistake() -> None:
    with pytest.raises(Stop, match="the product takes only"):
        select(SETTINGS, CANVAS.kinds, entities=["result"])


# ---- the order --------------------------------------------------------------------------------


class Said(Message):
    """A message with a timestamp."""

    def __init__(self, place: Position, offset: int, time: int) -> None:
        super().__init__(place.topic, place.partition, offset, b"k", b"v")
        self.time = time

    def timestamp(self) -> Any:
        return 1, self.time


class Reads:
    """The part of a consumer that the merge uses; it returns messages in batches of any size."""

    def __init__(self, messages: list[Message], sizes: Iterator[int]) -> None:
        self._messages, self._sizes = messages, sizes

    def assign(self, _: object) -> None: ...
    def incremental_unassign(self, _: object) -> None: ...
    def incremental_assign(self, _: object) -> None: ...

    def poll(self, _: float) -> Message | None:
        return self._messages.pop(0) if self._messages else None

    def consume(self, number: int, timeout: float) -> list[Message]:
        number = min(number, next(self._sizes, 3))
        found, self._messages[:] = self._messages[:number], self._messages[number:]
        return found


@given(
    st.lists(st.integers(0, 30), min_size=1, max_size=30),
    st.lists(st.integers(0, 30), min_size=1, max_size=30),
    st.randoms(use_true_random=False),
)
def test_what_came_first_is_read_first_and_a_partition_keeps_its_order(
    students: list[int], enrollments: list[int], random: Any
) -> None:
    lines = {STUDENT: sorted(students), ENROLLMENT: sorted(enrollments)}
    queues = {p: [Said(p, n, time) for n, time in enumerate(line)] for p, line in lines.items()}
    mixed: list[Message] = []
    while any(queues.values()):
        place = random.choice([p for p, queue in queues.items() if queue])
        mixed.append(queues[place].pop(0))
    window = Window(dict.fromkeys(lines, 0), {p: len(line) for p, line in lines.items()})
    reads: Any = Reads(mixed, iter([1, 5, 2, 9]))
    with patch.object(reader, "Consumer", lambda _: reads):
        merge = _Merge(NAMED, window)
        found: list[Any] = [message for batch in merge.batches() for message in batch]
    assert len(found) == len(students) + len(enrollments)
    assert [m.time for m in found] == sorted(m.time for m in found)
    for place in lines:
        offsets = [m.offset() for m in found if m.topic() == place.topic]
        assert offsets == sorted(offsets)


# ---- the latest state -------------------------------------------------------------------------


def test_columns_are_as_they_were_added() -> None:
    columns = _Columns()
    for at in range(250_000):
        columns.add(at % 7, at)
    keys, offsets = columns.arrays()
    assert len(keys) == len(offsets) == 250_000
    assert (keys[-1], offsets[-1]) == (249_999 % 7, 249_999)


# ---- progress ---------------------------------------------------------------------------------


def test_how_far_a_replay_is() -> None:
    about = ReplayRequest(
        "canvas-1", "canvas", "beginning", "now", start={"t/0": 0}, stop={"t/0": 100}
    )
    state = ReplayState().plus({Position("t", 0): 25}, {"student": 20}, 5, 0, 1.5)
    state = state.plus({Position("t", 0): 50}, {"student": 25}, 0, 0, 1.5)
    entry = ReplayEntry(about, state)
    assert (entry.share, state.delivered, state.seconds) == (0.5, {"student": 45}, 3.0)
    assert ReplayEntry(about, state, "cancel").status == "cancelled"


# ---- two states -------------------------------------------------------------------------------


def zipped(folder: Path, name: str, **files: str) -> None:
    folder.mkdir(exist_ok=True)
    with zipfile.ZipFile(folder / name, "w") as archive:
        for file, text in files.items():
            archive.writestr(f"{file}.csv", text.replace(" ", ""))


HEAD = "user_id,login_id,status\r\n"


def test_how_two_folders_differ(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    zipped(old, "1.zip", users=HEAD + "a,ann,active\r\nb,bob,active\r\nc,cy,active\r\n")
    zipped(old, "2.zip", users=HEAD + "c,cy,suspended\r\n")
    zipped(new, "1.zip", users=HEAD + "a,ANN,active\r\nd,dan,active\r\nc,cy,suspended\r\n")
    states = ProductStates(CANVAS, tmp_path)
    try:
        states.read("old", old)
        states.read("new", new)
        found = states.differences("old", "new")
    finally:
        states.close()
    assert [(one.what, one.key, one.columns) for one in found.found] == [
        ("different", ("a",), ("login_id",)),
        ("missing", ("b",), ()),
        ("extra", ("d",), ()),
    ]
    assert found.numbers()["users.csv"] == {"same": 0, "missing": 1, "extra": 1, "different": 1}


def test_of_which_records_a_row_was_made(tmp_path: Path) -> None:
    (users,) = [table for table in CANVAS.tables if table.name == "users.csv"]
    states = ProductStates(CANVAS, tmp_path)
    try:
        for kind in ("student", "staff"):
            states.add("made", users, [{"user_id": "a"}], [RowOrigin(kind, "a")])
        assert states.sources_of("made", "users.csv", ("a",)) == {
            RowOrigin("student", "a"),
            RowOrigin("staff", "a"),
        }
        assert states.sources_of("made", "users.csv", ("b",)) == set()
    finally:
        states.close()


def test_a_folder_without_files_of_the_product_is_a_mistake(tmp_path: Path) -> None:
    states = ProductStates(CANVAS, tmp_path)
    try:
        with pytest.raises(Stop, match="has none of accounts"):
            states.read("old", tmp_path)
    finally:
        states.close()


def shadow_batch(*names: str, offset: int) -> Batch:
    table = WEBHOOK.tables[0]
    rows: list[dict[str, object]] = [
        {"sourcedId": n[0], "givenName": n, "grades": [n]} for n in names
    ]
    messages: Any = [None] * len(names)
    part = Part(table, "student", rows, [{"sourcedId": n[0]} for n in names], messages)
    return Batch([part], {STUDENT: offset})


def test_a_shadow_of_requests_is_compared_record_by_record(tmp_path: Path) -> None:
    old, new = tmp_path / "old", tmp_path / "new"
    JsonLinesFolder(old).deliver(shadow_batch("Ann", "Bob", offset=2))
    JsonLinesFolder(new).deliver(shadow_batch("Abe", "Bob", offset=2))
    states = ProductStates(WEBHOOK, tmp_path)
    try:
        states.read("old", old)
        states.read("new", new)
        (found,) = states.differences("old", "new").found
    finally:
        states.close()
    assert (found.what, found.key) == ("different", ("student", "A"))
    assert found.columns == ("givenName", "grades")


def test_a_killed_shadow_continues_after_its_saved_progress(tmp_path: Path) -> None:
    JsonLinesFolder(tmp_path).deliver(shadow_batch("Ann", offset=1))
    with (tmp_path / "events.ndjson").open("a") as file:
        file.write('{"half a li')
    again = JsonLinesFolder(tmp_path)
    assert again.resume("cluster", [STUDENT, ENROLLMENT]) == {STUDENT: 1}
    again.deliver(shadow_batch("Bob", offset=2))
    lines = (tmp_path / "events.ndjson").read_text().splitlines()
    assert [json.loads(line)["row"]["givenName"] for line in lines] == ["Ann", "Bob"]


def test_a_replay_into_another_place_forgets_the_live_one() -> None:
    """Otherwise a replay into a test folder would go to the product itself."""
    live = {"url": "https://canvas.example", "time_zone": "America/Chicago"}
    settings = Settings(home=Path("nowhere"), products={"canvas": live})
    into = plugins.settings_into(CANVAS, settings, "/somewhere")
    assert (into.url, str(into.out)) == (None, "/somewhere")


@pytest.mark.parametrize(
    ("one", "other", "same"),
    [
        ("2026-08-15T05:00:00Z", "2026-08-15T00:00:00-05:00", True),
        ("2026-08-15T05:00:00Z", "2026-08-15T05:00:00-05:00", False),
        ("2026-08-15T05:00:00", "2026-08-15T05:00:00Z", False),
        ("Ann", "ann", False),
    ],
)
def test_one_moment_in_two_zones_is_no_difference(one: str, other: str, same: bool) -> None:
    assert _same(one, other) is same


# ---- the command ------------------------------------------------------------------------------


@pytest.mark.parametrize(("said", "meant"), [("100", 100), ("100/s", 100), ("0.5 /s", 0.5)])
def test_a_rate_is_records_a_second(said: str, meant: float) -> None:
    assert per_second(said) == meant
