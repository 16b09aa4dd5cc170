"""The outbox keeps messages, and returns the last state of each record, in order."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest

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

    def produce(
        self, topic: str, value: bytes | None, key: str, partition: int, **more: Any
    ) -> None:
        self.sent.append((topic, value, key, partition))
        self.ids.append(dict(more["headers"])["ce_id"].decode())

    def poll(self, _: float) -> int:
        return 0

    def flush(self, _: float) -> int:
        self.sent.append(("flushed", None, "", 0))
        return 0

    def purge(self) -> None:
        """Do nothing."""


def message(
    key: str, value: bytes | None, kind: str = "student", agreement: str = "math"
) -> Outgoing:
    return Outgoing(agreement, f"p.vendor.{agreement}.{kind}", 0, key, value, "t", 1_800_000_000)


@pytest.fixture
def box(monkeypatch: pytest.MonkeyPatch) -> Iterator[Outbox]:
    monkeypatch.setattr(module, "Producer", NoKafka)
    view = DistrictView(None, "test", lambda *_: {})
    settings = Settings(kafka=KafkaSettings(bootstrap="127.0.0.1:1"))
    box = Outbox(settings, view, None)  # type: ignore[arg-type]
    yield box
    view.close()


def sent(box: Outbox) -> list[tuple[str, bytes | None]]:
    producer: Any = box._producer
    return [(key, value) for topic, value, key, _ in producer.sent if topic != "flushed"]


def test_only_the_last_state_of_each_record_is_sent_also_from_several_batches(box: Outbox) -> None:
    box.add(
        batches([message("a", b"1"), message("b", b"1"), message("a", b"2"), message("c", b"")])
    )
    box.add(batches([message("b", None), message("d", b"4")]))
    assert box.send({"math": EDITION}) == 4
    assert sent(box) == [("a", b"2"), ("c", b""), ("b", None), ("d", b"4")]
    assert box.send({"math": EDITION}) == 0, "what was sent is removed"


def test_messages_stay_until_they_are_sent_and_keep_the_ids_of_their_events(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2")]))
    producer: Any = box._producer
    kept = producer.flush
    producer.flush = lambda _: 1  # Kafka does not answer
    with pytest.raises(module.RetryLater):
        box.send({"math": EDITION})
    producer.flush = kept
    assert box.send({"math": EDITION}) == 2
    first, second = producer.ids[:-2], producer.ids[-2:]
    assert second[0] != second[1]
    assert {len(one) for one in second} == {24}
    assert first == second[: len(first)]


def test_an_agreement_is_forgotten_and_another_one_is_not(box: Outbox) -> None:
    box.add(batches([message("a", b"1"), message("b", b"2", agreement="art"), message("c", b"3")]))
    box.forget("math")
    assert box.send({"math": EDITION, "art": EDITION}) == 1
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
    assert box.send({"art": EDITION}) == 1
    assert sent(box) == [("b", b"2")]


def test_referenced_records_are_stored_before_the_record(box: Outbox) -> None:
    box.add(batches([message("o", b"1", "org"), message("s", b"1"), message("t", b"1")]))
    box.send({"math": EDITION})
    producer: Any = box._producer
    assert [key or "flush" for _, _, key, _ in producer.sent] == [
        *("flush", "o", "flush", "s", "t", "flush")
    ]


def test_many_messages_are_in_several_rows(box: Outbox, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("bus.vendors.outbox_rows.ROW_MESSAGES", 3)
    box.add(batches(message(str(number), str(number).encode()) for number in range(8)))
    assert len(box._rows.numbers()) == 3
    assert box.send({"math": EDITION}) == 8
    assert [key for key, _ in sent(box)] == [str(number) for number in range(8)]
