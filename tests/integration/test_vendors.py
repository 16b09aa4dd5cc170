"""On a real bus, vendors receive exactly what their agreements share."""

from __future__ import annotations

import csv
import subprocess
import time
from collections.abc import Iterable, Mapping
from datetime import date, timedelta
from pathlib import Path
from typing import Any

import pytest
from confluent_kafka import Producer

from bus import subscribe
from bus.demo.sample import District as SampleDistrict
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.kafka.reader import SILENCE, Reader, scan
from bus.registry.codec import Decoder
from bus.registry.subjects import schema_lookup
from bus.settings import Settings
from bus.standard.kinds import KINDS, Record
from bus.vendors import applied, master_key, vendor_stream
from bus.vendors.outbox import Outbox
from bus.vendors.outbox_rows import OutgoingBatch
from bus.vendors.pseudonyms import Pseudonyms, unwrapped
from bus.vendors.runner import Runner
from bus.vendors.scope import OPT_OUT, compile_scope
from bus.vendors.vendor_schema import vendor_topic
from bus.vendors.vendor_stream import VendorStream
from tests.integration.commands import Commands
from tests.vendor_checker import District

SAMPLE = SampleDistrict(students=150, opt_outs=0.03)

AGREEMENT = """
vendor = "{name} Inc."
purpose = "instruction"
basis = "school-official"
from = {start}
until = {end}
roles = ["teacher", "guardian"]
identifiers = "{identifiers}"

[document]
title = "Agreement"
sha256 = "{digest}"

[contacts]
vendor = "v@vendor.example"
district = "d@district.example"

[share]
categories = ["Student Name", "Enrollment", "Schedule"]

[share.why]
"Student Name" = "the class list shows names"

[students]
{students}
leave_after = {leave_after}
"""


def write_agreement(
    folder: Path,
    name: str,
    students: str = "",
    identifiers: str = "pseudonyms",
    leave_after: int = 0,
) -> None:
    """Write an agreement that holds today."""
    folder.mkdir(exist_ok=True)
    day = date.today()
    (folder / f"{name}.toml").write_text(
        AGREEMENT.format(
            name=name.title(),
            start=day - timedelta(days=30),
            end=day + timedelta(days=300),
            digest="0" * 64,
            students=students,
            identifiers=identifiers,
            leave_after=leave_after,
        )
    )


def last_states(
    settings: Settings, topic_of: Mapping[str, str], *, as_written: bool = False
) -> dict[tuple[str, str], Record]:
    """Return the last state of each record in these topics, which are given by kind.

    One client reads all topics: a client for each would take several times as long.
    """
    lookup = schema_lookup(settings)
    decoders = {
        topic: (kind, Decoder(kind, lookup, as_written=as_written))
        for kind, topic in topic_of.items()
    }
    found: dict[tuple[str, str], Record] = {}
    with Reader(settings, "{}") as reader:
        start = dict.fromkeys(reader.places(list(decoders)), 0)
        for batch in reader.batches(start, silence=SILENCE):
            for message in batch:
                kind, decoder = decoders[message.topic() or ""]
                key = kind, (message.key() or b"").decode()
                if (value := message.value()) is None:
                    found.pop(key, None)
                else:
                    found[key] = decoder.decode(value)
    return found


def district(settings: Settings) -> District:
    """Return the present state of the district's topics."""
    found = District()
    found.records = last_states(settings, {kind: topics.topic(settings, kind) for kind in KINDS})
    return found


def received(settings: Settings, name: str) -> dict[tuple[str, str], Record]:
    """Return the last state of each record in a vendor's topics."""
    deal = applied.read(settings)[name]
    topic_of = {
        kind: vendor_topic(settings, deal.ids_name, kind)
        for kind in compile_scope(deal.agreement).kinds
    }
    return last_states(settings, topic_of, as_written=True)


def expected(
    settings: Settings, name: str, present: District | None = None
) -> dict[tuple[str, str], Record]:
    """Return what the checker computes for a vendor, with the vendor's ids.

    present: the present state of the district's topics, if the caller has it.
    """
    deal = applied.read(settings)[name]
    key = unwrapped(deal.wrapped_key, master_key.read(settings))
    vendor_id = Pseudonyms(key).pseudonym
    scope = compile_scope(deal.agreement)
    if not scope.pseudonymous:
        vendor_id = str
    found = {}
    present = present or district(settings)
    for (kind, id_), record in present.expected(deal.agreement, date.today()).items():
        for field in (*scope.kinds[kind].references, "sourcedId"):
            value = record[field]
            if isinstance(value, list):
                record[field] = [vendor_id(one) for one in value]
            elif value is not None:
                record[field] = vendor_id(value)
        found[kind, vendor_id(id_)] = record
    return found


def assert_equal(settings: Settings, *names: str) -> None:
    present = district(settings)
    for name in names:
        assert received(settings, name) == expected(settings, name, present)


@pytest.fixture(params=[1, 2], ids=["one instance", "two shards"])
def vendors(commands: Commands, request: pytest.FixtureRequest) -> Commands:
    """The first day of a small district, and two agreements: one of them for one school.

    One shard has all students, or two divide them.
    """
    commands.divide(request.param)
    path = SAMPLE.write(commands.cwd / "day-1.zip")
    commands.run("produce", "oneroster-csv", str(path))
    folder = commands.cwd / "agreements"
    write_agreement(folder, "whole", identifiers="real")
    write_agreement(folder, "school", 'schools = ["school-0001"]')
    return commands


def run(commands: Commands, *arguments: str) -> dict[str, Any]:
    """Run a command of `bus vendors`, and return its JSON."""
    return commands.run("vendors", *arguments)


def begun(vendors: Commands) -> Settings:
    """Apply the agreements, write the vendors' topics, and return the settings."""
    run(vendors, "apply")
    run(vendors, "run", "--until-caught-up")
    return vendors.settings


def test_each_vendor_has_what_its_agreement_and_the_district_say(vendors: Commands) -> None:
    settings = vendors.settings
    run(vendors, "apply")
    assert run(vendors, "run", "--until-caught-up")["agreements"] == ["school", "whole"]
    assert_equal(settings, "school", "whole")
    assert 0 < len(received(settings, "school")) < len(received(settings, "whole"))
    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-2.zip", day=2)))
    run(vendors, "run", "--until-caught-up")
    assert_equal(settings, "school", "whole")
    assert run(vendors, "run", "--until-caught-up")["sent"] == 0
    # A vendor's five lines.
    events = subscribe(
        "student", agreement="school", group="app", settings=settings, until_caught_up=True
    )
    students = {event.key for event in events if event.record is not None}
    assert students >= {id_ for kind, id_ in received(settings, "school") if kind == "student"}


def test_an_opt_out_deletes_a_student_and_its_end_sends_the_student_again(
    vendors: Commands,
) -> None:
    settings = begun(vendors)
    student = next(id_ for kind, id_ in received(settings, "whole") if kind == "student")
    added = vendors.run("optouts", "add", student, "--scope", "protected", "--decided-by", "parent")
    run(vendors, "run", "--until-caught-up")
    assert ("student", student) not in received(settings, "whole")
    assert_equal(settings, "school", "whole")
    vendors.run("optouts", "end", added["optOut"]["sourcedId"])
    run(vendors, "run", "--until-caught-up")
    assert ("student", student) in received(settings, "whole")
    assert_equal(settings, "school", "whole")


def test_the_topics_of_a_narrower_agreement_are_written_again_without_the_old_values(
    vendors: Commands,
) -> None:
    settings = begun(vendors)
    path = vendors.cwd / "agreements" / "whole.toml"
    path.write_text(
        path.read_text()
        .replace('"Student Name", ', "")
        .replace("[students]", '[students]\ngrades = ["06"]')
    )
    path.write_text(path.read_text().replace('roles = ["teacher", "guardian"]', "roles = []"))
    run(vendors, "apply")
    run(vendors, "run", "--until-caught-up")
    assert_equal(settings, "school", "whole")
    staff = [*scan(settings, vendor_topic(settings, "whole", "staff"))]
    assert staff
    assert not any(message.value() for message in staff), "a kind that is not shared any more"
    names = {
        record["givenName"]
        for (kind, _), record in district(settings).records.items()
        if kind == "student"
    }
    values = [
        message.value() or b""
        for message in scan(settings, vendor_topic(settings, "whole", "student"))
    ]
    assert not any(name.encode() in value for name in names for value in values)


def test_whom_a_decision_excludes_is_deleted_before_the_topics_are_written_again(
    vendors: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begun(vendors)
    before = {id_ for kind, id_ in received(settings, "whole") if kind == "student"}
    write_agreement(vendors.cwd / "agreements", "whole", 'schools = ["school-0001"]', "real")
    run(vendors, "apply")
    students: list[tuple[str, bool]] = []
    add, go_on = Outbox.add, VendorStream.go_on
    opted_out: list[str] = []

    def watched(self: Outbox, messages: Iterable[OutgoingBatch]) -> None:
        found = list(messages)
        students.extend(
            (key, value is not None)
            for one in found
            if one.topic.endswith(".whole.student")
            for key, value in zip(one.keys, one.values, strict=True)
        )
        add(self, found)

    def interrupted(self: VendorStream, *arguments: Any) -> Any:
        """Enter an opt-out when the first slice is written."""
        found = go_on(self, *arguments)
        if self.name == "whole" and self.progress.reached and not opted_out:
            stays = set(district(settings).expected(self.applied.agreement, date.today()))
            opted_out.append(max(id_ for kind, id_ in stays if kind == "student"))
            decided = ("--scope", "protected", "--decided-by", "parent")
            vendors.run("optouts", "add", opted_out[0], *decided)
        return found

    monkeypatch.setattr(Outbox, "add", watched)
    monkeypatch.setattr(VendorStream, "go_on", interrupted)
    monkeypatch.setattr(vendor_stream, "SLICE", 10)
    Runner(settings).run(until_caught_up=True)
    assert_equal(settings, "school", "whole")
    after = {id_ for kind, id_ in received(settings, "whole") if kind == "student"}
    kept_out = set(opted_out)
    excluded = [key for key, is_there in students if not is_there]
    first = [is_there for _, is_there in students].index(True)
    assert set(excluded[:first]) == before - after - kept_out != set()
    assert (opted_out[0], True) not in students
    at = students.index((opted_out[0], False))
    assert any(is_there for _, is_there in students[at:]), "deleted before all was written again"


def test_a_rekeyed_vendor_has_only_new_ids_and_the_crosswalk_has_each(
    vendors: Commands,
) -> None:
    settings = begun(vendors)
    before = received(settings, "school")
    private = vendors.cwd / "private"
    private.mkdir(mode=0o700)
    file = private / "crosswalk.csv"
    step = ("rekey", "school", "--crosswalk", str(file), "--yes")
    assert run(vendors, *step)["ids"] == len(before)
    sent = run(vendors, "run", "--until-caught-up")["sent"]
    assert sent == 2 * len(before)  # each record with its new id, and the deletion of the old one
    assert_equal(settings, "school", "whole")
    with file.open(newline="") as lines:
        new_ids = {(row["kind"], row["oldId"]): row["newId"] for row in csv.DictReader(lines)}
    after = received(settings, "school")
    assert {(kind, new_ids[kind, id_]) for kind, id_ in before} == set(after)
    old_ids = [id_.encode() for _, id_ in before]
    for kind in {kind for kind, _ in before}:
        for message in scan(settings, vendor_topic(settings, "school", kind)):
            if (value := message.value()) is not None:
                assert not any(id_ in value or id_ == message.key() for id_ in old_ids)
    assert run(vendors, *step)["times"] == 1
    assert run(vendors, "run", "--until-caught-up")["sent"] == 0
    history = run(vendors, "disclosures", "--vendor", "school", "--why", "a test")["history"]
    assert [(one["what"], one["times"]) for one in history] == [("rekeyed", 1)]


def test_a_revoked_vendor_receives_nothing_more(vendors: Commands) -> None:
    settings = begun(vendors)
    before = received(settings, "whole")
    vendors.run("vendors", "revoke", "whole", "--why", "the contract ended", "--yes")
    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-2.zip", day=2)))
    run(vendors, "run", "--until-caught-up")
    assert received(settings, "whole") == before
    assert_equal(settings, "school")


def test_changes_of_a_date_take_effect_although_nothing_ran_on_that_day(vendors: Commands) -> None:
    settings, day = vendors.settings, date.today()
    write_agreement(vendors.cwd / "agreements", "whole", identifiers="real", leave_after=7)
    run(vendors, "apply")
    run(vendors, "run", "--until-caught-up")
    named = [id_ for kind, id_ in received(settings, "whole") if kind == "student"]
    add = ("optouts", "add", named[0], "--scope", "protected", "--decided-by", "parent")
    vendors.run(*add, "--from", str(day + timedelta(days=3)))
    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-2.zip", day=2)))
    run(vendors, "run", "--until-caught-up")
    before = received(settings, "whole")
    left = {
        id_
        for (kind, id_), one in before.items()
        if kind == "student" and one["status"] == "tobedeleted"
    }
    assert left
    assert ("student", named[0]) in before
    Runner(settings, today=lambda: day + timedelta(days=7)).run(until_caught_up=True)
    after = {id_ for kind, id_ in received(settings, "whole") if kind == "student"}
    assert after == {id_ for kind, id_ in before if kind == "student"} - left - {named[0]}


def test_nothing_is_sent_while_an_opt_out_may_lie_behind_an_open_transaction(
    vendors: Commands,
) -> None:
    """A process that was killed leaves its transaction open, which hides all later opt-outs."""
    settings = begun(vendors)
    student = next(id_ for kind, id_ in received(settings, "whole") if kind == "student")
    id_ = f"{settings.topic_prefix}/killed"  # other tests may use the same bus now
    killed = Producer(client_settings(settings) | {"transactional.id": id_})
    killed.init_transactions(30)
    killed.begin_transaction()
    with Reader(settings, "{}") as reader:
        for place in reader.places([topics.topic(settings, OPT_OUT)]):
            killed.produce(place.topic, None, b"nobody", place.partition)
    killed.flush(30)
    add = ("optouts", "add", student, "--scope", "protected", "--decided-by", "parent")
    vendors.run(*add)
    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-2.zip", day=2)))
    process = vendors.start("vendors", "run", "--until-caught-up", "--json")
    try:
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=5)
        assert ("student", student) in received(settings, "whole"), "it waits"
        killed.abort_transaction(30)
        process.communicate(timeout=60)
    finally:
        process.kill()
    assert process.returncode == 0
    assert ("student", student) not in received(settings, "whole")
    assert_equal(settings, "school", "whole")


def test_an_agreement_that_could_not_be_projected_gets_the_missed_changes_later(
    vendors: Commands, monkeypatch: pytest.MonkeyPatch
) -> None:
    settings = begun(vendors)

    def missing(*_: object) -> dict[str, int]:
        raise Stop("a schema is missing")

    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-2.zip", day=2)))
    with monkeypatch.context() as broken:
        broken.setattr("bus.vendors.vendor_messages.lookup", missing)
        assert Runner(settings).run(until_caught_up=True).agreements == []
    assert run(vendors, "run", "--until-caught-up")["agreements"] == ["school", "whole"]
    assert_equal(settings, "school", "whole")


def test_each_vendor_is_right_after_kills_and_the_loss_of_the_file(
    vendors: Commands,
) -> None:
    settings = vendors.settings
    run(vendors, "apply")
    for day, wait in ((2, 1.5), (3, 2.2), (4, 2.6), (5, 3.0)):
        process = vendors.start("vendors", "run")
        try:
            path = SAMPLE.write(vendors.cwd / f"day-{day}.zip", day=day)
            vendors.run("produce", "oneroster-csv", str(path))
            time.sleep(wait)
        finally:
            process.kill()
            process.communicate()
    run(vendors, "run", "--until-caught-up")
    assert_equal(settings, "school", "whole")
    vendors.run("produce", "oneroster-csv", str(SAMPLE.write(vendors.cwd / "day-6.zip", day=6)))
    for file in (settings.home / "vendors").glob(f"{settings.topic_prefix}.*"):
        file.unlink()
    run(vendors, "run", "--until-caught-up")
    assert_equal(settings, "school", "whole")
