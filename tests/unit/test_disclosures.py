"""The writer of the record of disclosures, on topics in memory: turns, kills and lost answers."""

from __future__ import annotations

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from hashlib import sha256
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors import disclosures
from bus.vendors.agreement import parse
from bus.vendors.disclosed_students import DisclosedStudents, Row
from bus.vendors.disclosure_chain import ChainHead, Entry, decoded, head_of, linked, verify
from bus.vendors.disclosure_log import NotTheWriter
from bus.vendors.disclosures import DisclosureWriter
from bus.vendors.scope import compile_scope

AT = datetime(2026, 11, 28, 3, tzinfo=UTC)
SETTINGS = Settings(kafka=KafkaSettings(), registry=RegistrySettings())


@dataclass
class Topics:
    """Both topics, and the epoch of the transactional id."""

    entries: list[bytes | None] = field(default_factory=list)
    rows: list[Row] = field(default_factory=list)
    epoch: int = 0
    lock: threading.RLock = field(default_factory=threading.RLock)

    def decoded(self, *what: str) -> list[Entry]:
        found = [entry for value in self.entries if (entry := decoded(value))]
        return [entry for entry in found if not what or entry["what"] in what]


class Log:
    """A `DisclosureLog` on topics in memory. `before` and `after` see each step by its name."""

    def __init__(
        self,
        topics: Topics,
        before: Callable[[str], None] = lambda _: None,
        after: Callable[[str], None] = lambda _: None,
    ) -> None:
        self.topics, self.before, self.after = topics, before, after
        self.mine, self.starts, self.whole = -1, 0, 0
        self.next: dict[str, int] = {}

    def take_over(self) -> None:
        self.before("take_over")
        with self.topics.lock:
            self.topics.epoch += 1
            self.mine = self.topics.epoch
        self.starts += 1
        self.after("take_over")

    def entries(self) -> list[bytes]:
        self.before("entries")
        first = "entries" not in self.next
        found = self.topics.entries[self.next.get("entries", 0) :]
        self.next["entries"] = len(self.topics.entries)
        values = [value for value in found if value and head_of(value)]
        return values[-1:] if first else values

    def all_entries(self) -> list[bytes | None]:
        self.whole += 1
        return list(self.topics.entries)

    def students(self) -> list[Row]:
        self.before("students")
        found = self.topics.rows[self.next.get("rows", 0) :]
        self.next["rows"] = len(self.topics.rows)
        return found

    def append(self, entries: list[tuple[int, bytes]], rows: list[Row]) -> None:
        self.before("append")
        with self.topics.lock:
            if self.mine != self.topics.epoch:
                raise NotTheWriter
            self.topics.entries += [value for _, value in entries]
            self.topics.rows += rows
        self.after("append")

    def close(self) -> None:
        pass


def writer(log: Log) -> DisclosureWriter:
    return DisclosureWriter(SETTINGS, log, sleep=lambda _: None)  # type: ignore[arg-type]


def agreement(name: str = "math-app", **more: Any) -> Any:
    table = {
        "vendor": "Acme Inc.",
        "purpose": "instruction",
        "basis": "school-official",
        "from": "2026-08-01",
        "until": "2027-07-31",
        "document": {"title": "NDPA", "sha256": "ab" * 32},
        "contacts": {"vendor": "a@acme.example", "district": "b@d.example"},
        "share": {"categories": ["Student Name"], "fields": ["student.grades"]},
        "subprocessors": [{"name": "Cloud Co.", "purpose": "hosting"}],
    }
    return parse(name, {**table, **more}, "test")


def scope_changed(one: DisclosureWriter, name: str = "math-app", **more: Any) -> None:
    one.scope_changed(
        SimpleNamespace(fingerprint="cd" * 32), compile_scope(agreement(name, **more)), AT
    )


def test_each_method_appends_one_entry() -> None:
    kept = Topics()
    one = writer(Log(kept))
    scope_changed(one)
    one.entered("math-app", ["s1", "s2", "s1"], AT)
    one.left("math-app", ["s2", "unknown"], AT)
    one.access("ann@desk", "a parent asked", "student", student="s1")
    one.access("ann@desk", "a parent asked", "student", student="unknown")
    one.access("ann@desk", "an audit", "vendor", "Acme Inc.")
    one.ended("math-app", AT)
    one.ended("math-app", AT, "breach of contract")
    one.rekeyed("math-app", AT, 2)
    one.deleted("math-app", AT, {"topics": ["b", "a"]})
    one.attested("math-app", AT, "Bob, Acme", "letter of 2026-11-28")
    found = kept.decoded()
    assert [entry["what"] for entry in found] == (
        "scope entered left access access access ended revoked rekeyed deleted attested".split()
    )
    table = DisclosedStudents(kept.rows)
    named = table.by_commitment()
    scope, entered, left, *rest = found
    assert scope["fields"]["student"][:2] == ["sourcedId", "status"]
    assert "grades" in scope["fields"]["student"]
    assert (scope["categories"], scope["subprocessors"]) == (["Student Name"], ["Cloud Co."])
    assert (scope["from"], scope["until"], scope["basis"]) == (
        "2026-08-01",
        "2027-07-31",
        "school-official",
    )
    assert {named[one] for one in entered["students"]} == {"s1", "s2"}
    assert [named[one] for one in left["students"]] == ["s2"]
    assert [[named[one] for one in entry["students"]] for entry in rest[:3]] == [["s1"], [], []]
    assert rest[5]["times"] == 2
    assert rest[6]["objects"] == {"topics": ["a", "b"]}
    assert verify(kept.entries, one.head()) == []
    assert not any(b"s1" in (value or b"") for value in kept.entries)


def test_a_call_without_students_appends_nothing() -> None:
    kept = Topics()
    one = writer(Log(kept))
    one.entered("math-app", [], AT)
    one.left("math-app", ["unknown"], AT)
    assert one.erase(["unknown"], "ann@desk", "asked") == 0
    assert one.head() == ChainHead()
    assert kept.entries == []


def test_many_students_go_into_several_entries_and_transactions() -> None:
    kept, sizes = Topics(), []
    log = Log(kept)
    log.after = lambda _: sizes.append(len(kept.entries))
    students = [f"s{number}" for number in range(disclosures.TRANSACTION_STUDENTS + 1)]
    writer(log).entered("math-app", students, AT)
    assert sizes[-2:] == [20, 21]
    found = [len(entry["students"]) for entry in kept.decoded()]
    assert found == [1000] * 20 + [1]
    assert max(len(value or b"") for value in kept.entries) < 100_000
    named = DisclosedStudents(kept.rows).by_commitment()
    assert {named[one] for entry in kept.decoded() for one in entry["students"]} == set(students)


@pytest.mark.parametrize("why", ["", " "])
def test_a_question_and_an_erasure_need_a_reason(why: str) -> None:
    kept = Topics()
    with pytest.raises(Stop, match="--why"):
        writer(Log(kept)).access("ann@desk", why, "vendor", "Acme Inc.")
    with pytest.raises(Stop, match="--why"):
        writer(Log(kept)).erase(["s1"], "ann@desk", why)
    assert kept.entries == []


def test_a_writer_that_is_alone_starts_once() -> None:
    log = Log(Topics())
    one = writer(log)
    for _ in range(3):
        one.entered("math-app", ["s1"], AT)
    assert log.starts == 1


def test_entries_that_exist_only_once_need_one_reading_of_the_record() -> None:
    kept = Topics()
    writer(Log(kept)).ended("first", AT)
    log = Log(kept)
    one, other = writer(log), writer(Log(kept))
    for name in ("first", "second", "second"):
        one.ended(name, AT)
    one.attested("first", AT, "Ann", "")
    other.ended("third", AT)
    other.deleted("first", AT, {})
    one.ended("third", AT)
    one.deleted("first", AT, {})
    assert log.whole == 1
    assert [(entry["what"], entry["agreement"]) for entry in kept.decoded()] == [
        ("ended", "first"),
        ("ended", "second"),
        ("attested", "first"),
        ("ended", "third"),
        ("deleted", "first"),
    ]


def test_an_end_that_was_stored_although_the_answer_was_lost_is_not_doubled() -> None:
    kept = Topics()
    log = Log(kept)
    one = writer(log)
    one.ended("first", AT)

    def lost(step: str) -> None:
        log.after = lambda _: None
        raise RetryLater("Kafka does not answer")

    log.after = lost
    with pytest.raises(RetryLater):
        one.ended("second", AT)
    one.ended("second", AT)
    assert [entry["agreement"] for entry in kept.decoded()] == ["first", "second"]


def test_two_writers_take_turns() -> None:
    kept = Topics()
    logs = Log(kept), Log(kept)
    first, second = (writer(log) for log in logs)
    for number in range(4):
        first.entered("math-app", [f"s{number}"], AT)
        second.left("math-app", [f"s{number}"], AT)
    assert verify(kept.entries, second.head()) == []
    assert [entry["what"] for entry in kept.decoded()] == ["entered", "left"] * 4
    assert [entry["students"] for entry in kept.decoded()[::2]] == (
        [entry["students"] for entry in kept.decoded()[1::2]]
    )
    assert len(kept.rows) == 4


def test_a_student_has_one_salt_whichever_writer_is_first() -> None:
    kept = Topics()
    first, second = writer(Log(kept)), writer(Log(kept))
    first.entered("math-app", ["s1"], AT)
    second.entered("library", ["s1", "s2"], AT)
    first.entered("math-app", ["s2"], AT)
    assert len(kept.rows) == 2
    assert {len(DisclosedStudents(kept.rows).commitments(one)) for one in ("s1", "s2")} == {1}


def test_an_erased_student_gets_a_new_salt_from_a_writer_that_knew_the_old_one() -> None:
    kept = Topics()
    first, second = writer(Log(kept)), writer(Log(kept))
    first.entered("math-app", ["s1", "s2"], AT)
    first.left("math-app", ["s1"], AT)
    assert second.erase(["s1", "unknown", "s1"], "ann@desk", "request") == 1
    named = DisclosedStudents(kept.rows).by_commitment()
    assert set(named.values()) == {"s2"}
    first.entered("math-app", ["s1"], AT)
    table = DisclosedStudents(kept.rows)
    entered = kept.decoded("entered")
    assert entered[1]["students"] == table.commitments("s1")
    assert entered[1]["students"][0] not in entered[0]["students"]
    assert kept.decoded("erased")[0]["count"] == 1
    assert verify(kept.entries, first.head()) == []


def test_a_message_that_is_not_an_entry_does_not_stop_the_writer() -> None:
    kept = Topics()
    writer(Log(kept)).entered("math-app", ["s1"], AT)
    kept.entries.append(b"garbage")
    writer(Log(kept)).left("math-app", ["s1"], AT)
    assert [one.code for one in verify(kept.entries)] == ["unreadable"]
    assert [entry["number"] for entry in kept.decoded()] == [1, 2]


def test_an_entry_that_was_stored_although_the_answer_was_lost_is_not_doubled() -> None:
    kept = Topics()
    log = Log(kept)
    one = writer(log)
    one.entered("math-app", ["s1"], AT)
    other = writer(Log(kept))

    def lost(step: str) -> None:
        log.after = lambda _: None
        other.left("library", ["s1"], AT)  # somebody else comes in between
        raise NotTheWriter

    log.after = lost
    one.left("math-app", ["s1"], AT)
    assert [entry["agreement"] for entry in kept.decoded("left")] == ["math-app", "library"]
    one.entered("math-app", ["s1"], AT)
    assert verify(kept.entries, one.head()) == []


def test_a_writer_gives_up_when_others_never_let_it_write(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Topics()
    monkeypatch.setattr(disclosures, "PATIENCE", 0.0)

    def take_it_away(step: str) -> None:
        kept.epoch += step == "append"

    one = writer(Log(kept, before=take_it_away))
    with pytest.raises(RetryLater, match="other processes"):
        one.entered("math-app", ["s1"], AT)
    assert kept.entries == []


STEPS = st.sampled_from(
    ["go on"] * 6 + ["other", "fenced", "lost", "down before", "down after", "other after"]
)


@settings(deadline=None)
@given(st.lists(STEPS, max_size=60), st.integers(1, 4))
def test_the_chain_is_whole_and_complete_after_any_failure(steps: list[str], calls: int) -> None:
    """Each step of a writer meets another writer, a lost answer or an unavailable Kafka."""
    kept = Topics()
    other = writer(Log(kept))
    left = iter(steps)
    others, confirmed, failed = 0, [], 0

    def meet(step: str, when: str) -> None:
        nonlocal others
        what = next(left, "go on")
        if what == "other" and when == "before":
            other.entered("library", [f"o{others % 3}", f"s{others % 3}"], AT)
            others += 1
        elif what == "other after" and when == "after":
            other.entered("library", [f"s{others % 3}"], AT)
            others += 1
        elif (what == "fenced" and when == "before" and step in ("take_over", "append")) or (
            what == "lost" and when == "after"
        ):
            raise NotTheWriter
        elif what == f"down {when}":
            raise RetryLater("down")

    one = writer(Log(kept, lambda step: meet(step, "before"), lambda step: meet(step, "after")))
    for call in range(calls):
        while True:
            try:
                one.entered(f"a{call}", [f"s{call}", "s0"], AT + timedelta(seconds=call))
            except RetryLater:
                failed += 1
                continue
            break
        confirmed.append(f"a{call}")
        assert kept.decoded()[-1]["number"] == len(kept.entries)
        assert {entry["agreement"] for entry in kept.decoded()} - {"library"} == set(confirmed)
    head = writer(Log(kept)).head()
    assert verify(kept.entries, head) == []
    table = DisclosedStudents(kept.rows)
    named = table.by_commitment()
    assert len(table) == len(kept.rows)
    for entry in kept.decoded():
        assert all(one in named for one in entry["students"])
    ours = [entry for entry in kept.decoded() if entry["agreement"] != "library"]
    assert calls <= len(ours) <= calls + failed
    assert len(kept.decoded()) - len(ours) == others
    for entry in ours:
        number = entry["agreement"][1:]
        assert {named[one] for one in entry["students"]} == {f"s{number}", "s0"}


def test_writers_that_write_at_the_same_time_all_finish() -> None:
    kept = Topics()
    barrier, errors = threading.Barrier(4), []

    def work(number: int) -> None:
        def pause(_: str) -> None:
            barrier_event.wait(0.0005)

        one = DisclosureWriter(SETTINGS, Log(kept, before=pause))  # type: ignore[arg-type]
        barrier.wait()
        try:
            for call in range(10):
                one.entered(f"a{number}", [f"s{call}"], AT)
        except Exception as error:  # shown by the assertion below
            errors.append(error)

    barrier_event = threading.Event()
    threads = [threading.Thread(target=work, args=(number,)) for number in range(4)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(60)
    assert errors == []
    assert verify(kept.entries) == []
    assert len(kept.entries) == 40
    assert len(kept.rows) == 10


def test_the_head_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Topics()
    one = writer(Log(kept))
    path = tmp_path / disclosures.HEAD_FILE
    monkeypatch.setattr(disclosures, "entries", lambda _: kept.entries)
    assert disclosures.read_head(path) is None
    assert disclosures.keep_head(SETTINGS, path) == ChainHead()
    one.entered("math-app", ["s1"], AT)
    one.left("math-app", ["s1"], AT)
    found = disclosures.keep_head(SETTINGS, path)
    assert found == disclosures.read_head(path) == disclosures.head(SETTINGS) == one.head()
    assert found.number == 2
    assert found.sha256 == sha256(kept.entries[-1] or b"").hexdigest()
    assert found.sha256 in path.read_text("utf-8")
    assert [one.name for one in tmp_path.iterdir()] == [disclosures.HEAD_FILE]
    kept.entries.pop()
    with pytest.raises(Stop, match=r"damaged \(the chain ends at entry 1"):
        disclosures.keep_head(SETTINGS, path)
    assert disclosures.read_head(path) == found  # the evidence stays
    value, _ = linked({"what": "ended", "at": "x"}, head_of(kept.entries[-1]) or ChainHead())
    kept.entries.append(value)
    with pytest.raises(Stop, match="noted as the head"):
        disclosures.keep_head(SETTINGS, path)


@pytest.mark.parametrize(
    "text",
    [
        "",
        "no toml",
        'number = "x"\nsha256 = ""\nat = ""',
        'number = 1\nsha256 = "short"\nat = ""',
        f'number = -1\nsha256 = "{"0" * 64}"\nat = ""',
    ],
)
def test_a_damaged_head_file_is_an_error(text: str, tmp_path: Path) -> None:
    path = tmp_path / disclosures.HEAD_FILE
    path.write_text(text)
    with pytest.raises(Stop, match="not the head"):
        disclosures.read_head(path)


def test_the_topics_keep_the_record_forever_and_can_forget_a_student() -> None:
    record = topics.config(SETTINGS, topics.disclosures(SETTINGS))
    assert record["cleanup.policy"] == "delete"
    assert record["retention.ms"] == "-1"
    students = topics.config(SETTINGS, topics.disclosed_students(SETTINGS))
    assert students["cleanup.policy"] == "compact"
    assert int(students["max.compaction.lag.ms"]) == topics.DAY
