"""The outbox keeps messages, and returns the last state of each record, in order."""

from __future__ import annotations

import threading
from collections.abc import Iterator, Sequence
from typing import Any

import pytest

from bus.errors import RetryLater
from bus.settings import KafkaSettings, Settings
from bus.vendors import outbox as module
from bus.vendors.district_view import DistrictView
from bus.vendors.outbox import Outbox
from bus.vendors.outbox_rows import OutboxRows, Outgoing, batches

EDITION = "0" * 64


class NoKafka:
    """A producer that accepts everything."""

    def __init__(self, _: dict[str, Any]) -> None:
        self.sent: list[tuple[str, bytes | None, str, int]] = []
        self.ids: list[str] = []
        self.stores = threading.Event()  # while it is not set, `flush` waits
        self.stores.set()

    def produce(
        self, topic: str, value: bytes | None, key: str, partition: int, **more: Any
    ) -> None:
        self.sent.append((topic, value, key, partition))
        self.ids.append(dict(more["headers"])["ce_id"].decode())

    def poll(self, _: float) -> int:
        return 0

    def flush(self, _: float) -> int:
        assert self.stores.wait(10)
        self.sent.append(("flushed", None, "", 0))
        return 0

    def purge(self) -> None:
        self.stores.set()


class NoRecord:
    """A record of disclosures that keeps who entered or left, or refuses."""

    def __init__(self) -> None:
        self.said: list[tuple[str, str, list[str]]] = []
        self.refuses = False

    def entered(self, name: str, students: Sequence[str], _: object) -> None:
        if self.refuses:
            raise RetryLater("the record does not answer")
        self.said.append(("entered", name, list(students)))

    def left(self, name: str, students: Sequence[str], _: object) -> None:
        self.said.append(("left", name, list(students)))


def message(
    key: str, value: bytes | None, kind: str = "student", agreement: str = "math"
) -> Outgoing:
    return Outgoing(agreement, f"p.vendor.{agreement}.{kind}", 0, key, value, "t", 1_800_000_000)


@pytest.fixture
def record() -> NoRecord:
    return NoRecord()


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch, record: NoRecord) -> Iterator[Outbox]:
    monkeypatch.setattr(module, "Producer", NoKafka)
    view = DistrictView(None, "test", lambda *_: {})
    settings = Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1"))
    box = Outbox(settings, view, record)  # type: ignore[arg-type]
    yield box
    box.close()
    view.close()


def send(box: Outbox, active: dict[str, str]) -> int:
    """Send what was added, and return how many messages Kafka has stored."""
    return box.begin(active) + box.confirm()


def sent(box: Outbox) -> list[tuple[str, bytes | None]]:
    producer: Any = box._producer
    return [(key, value) for topic, value, key, _ in producer.sent if topic != "flushed"]


def test_only_the_last_state_of_each_record_is_sent_also_from_several_batches(box: Outbox) -> None:
    box.add(
        batches([message("a", b"1"), message("b", b"1"), message("a", b"2"), message("c", b"")])
    )
    box.add(batches([message("b", None), message("d", b"4")]))
    assert send(box, {"math": EDITION}) == 4
    assert sent(box) == [("a", b"2"), ("c", b""), ("b", None), ("d", b"4")]
    assert send(box, {"math": EDITION}) == 0, "what was sent is removed"


def test_messages_stay_until_they_are_sent_and_keep_the_ids_of_their_events(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2")]))
    producer: Any = box._producer
    kept = producer.flush
    producer.flush = lambda _: 1  # Kafka does not answer
    with pytest.raises(module.RetryLater):
        send(box, {"math": EDITION})
    producer.flush = kept
    assert send(box, {"math": EDITION}) == 2
    first, second = producer.ids[:-2], producer.ids[-2:]
    assert second[0] != second[1]
    assert {len(one) for one in second} == {24}
    assert first == second[: len(first)]


def test_an_agreement_is_forgotten_and_another_one_is_not(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2", agreement="art"), message("c", b"3")]))
    box.forget("math")
    assert send(box, {"math": EDITION, "art": EDITION}) == 1
    assert sent(box) == [("b", b"2")]


def test_another_process_may_forget_an_agreement_while_messages_are_sent(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2", agreement="art")]))
    box.add(batches([message("c", b"3")]))
    box.add(batches([message("d", b"4", agreement="art")]))
    sending = box._rows.latest()
    found = next(sending).keys
    OutboxRows(box._con).forget("math")
    found += [key for one in sending for key in one.keys]
    assert found == ["a", "b", "d"]
    assert box._rows.numbers() == [1, 3], "what stays keeps its number"


def test_messages_of_an_agreement_that_ended_are_dropped(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2", agreement="art")]))
    assert send(box, {"art": EDITION}) == 1
    assert sent(box) == [("b", b"2")]


def test_referenced_records_are_stored_before_the_record(box: Outbox) -> None:
    box.add(batches([message("o", b"1", "org"), message("s", b"1"), message("t", b"1")]))
    send(box, {"math": EDITION})
    producer: Any = box._producer
    assert [key or "flush" for _, _, key, _ in producer.sent] == [
        *("flush", "o", "flush", "s", "t", "flush")
    ]


def test_many_messages_are_in_several_rows(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.vendors.outbox_rows.ROW_MESSAGES", 3)
    box.add(batches(message(str(number), str(number).encode()) for number in range(8)))
    assert len(box._rows.numbers()) == 3
    assert send(box, {"math": EDITION}) == 8
    assert [key for key, _ in sent(box)] == [str(number) for number in range(8)]


# ---- on the way ----------------------------------------------------------------------------------


def test_the_next_batch_is_sent_only_after_the_one_on_the_way(box: Outbox) -> None:
    producer: Any = box._producer
    producer.stores.clear()
    box.add(batches([message("a", b"1")]))
    assert box.begin({"math": EDITION}) == 0, "it returns although Kafka has not stored it"
    assert box._rows.numbers() == [1], "it stays in the file"
    box.add(batches([message("a", b"2"), message("b", b"2")]))
    threading.Timer(0.05, producer.stores.set).start()
    assert box.begin({"math": EDITION}) == 1
    assert box._rows.numbers() == [2]
    assert box.confirm() == 2
    assert sent(box) == [("a", b"1"), ("a", b"2"), ("b", b"2")]
    assert box.confirm() == 0


def test_a_failure_on_the_way_is_raised_later_and_nothing_is_removed(box: Outbox) -> None:
    producer: Any = box._producer
    producer.flush = lambda _: 1  # Kafka does not answer
    box.add(batches([message("a", b"1")]))
    box.begin({"math": EDITION})
    box.settle()
    with pytest.raises(RetryLater):
        box.begin({"math": EDITION})
    assert box._rows.numbers() == [1]


def test_who_enters_is_recorded_before_the_messages_and_who_leaves_after_them(
    box: Outbox, record: NoRecord
) -> None:
    producer: Any = box._producer
    producer.stores.clear()
    box.note("math", ["a"], entered=True)
    box.note("math", ["b"], entered=False)
    box.add(batches([message("a", b"1")]))
    box.begin({"math": EDITION})
    producer.stores.set()
    box.settle()
    assert record.said == [("entered", "math", ["a"])]
    box.confirm()
    assert record.said[1:] == [("left", "math", ["b"])]


def test_without_a_record_of_who_enters_nothing_is_sent(box: Outbox, record: NoRecord) -> None:
    record.refuses = True
    box.note("math", ["a"], entered=True)
    box.add(batches([message("a", b"1")]))
    box.begin({"math": EDITION})
    with pytest.raises(RetryLater, match="does not answer"):
        box.confirm()
    assert sent(box) == []
    record.refuses = False
    assert send(box, {"math": EDITION}) == 1


def test_many_messages_are_sent_in_portions_and_none_after_one_that_failed(
    box: Outbox, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(module, "PORTION", 2)
    for number in range(5):
        box.add(batches([message(f"{number}", b"1", kind=f"kind{number}")]))
    producer: Any = box._producer
    kept, asked = producer.flush, []

    def fails_once(seconds: float) -> int:
        asked.append(len(producer.sent))
        return 1 if len(asked) == 4 else int(kept(seconds))

    producer.flush = fails_once
    with pytest.raises(RetryLater):
        send(box, {"math": EDITION})
    assert [key for key, _ in sent(box)] == ["0", "1"]
    assert send(box, {"math": EDITION}) == 5
    assert [key for key, _ in sent(box)] == [*"01", *"01234"]


def test_the_end_does_not_wait_for_kafka(box: Outbox) -> None:
    producer: Any = box._producer
    producer.stores.clear()
    box.add(batches([message("o", b"1", "org"), message("a", b"1")]))
    box.begin({"math": EDITION})
    box.close()
    assert box._rows.numbers() == [1], "the next start sends it"


def test_what_another_process_removed_does_not_hide_what_is_new(
    box: Outbox, record: NoRecord
) -> None:
    producer: Any = box._producer
    producer.stores.clear()
    box.note("math", ["a"], entered=True)
    box.add(batches([message("a", b"1")]))
    box.begin({"math": EDITION, "art": EDITION})
    OutboxRows(box._con).forget("math")  # as `bus.vendors.deletion` does
    box._con.execute("DELETE FROM disclosed WHERE agreement = 'math'")
    box.note("art", ["b"], entered=True)
    box.add(batches([message("b", b"2", agreement="art")]))
    producer.stores.set()
    assert box.confirm() == 1
    assert send(box, {"art": EDITION}) == 1
    assert sent(box) == [("a", b"1"), ("b", b"2")]
    assert record.said == [("entered", "math", ["a"]), ("entered", "art", ["b"])]
