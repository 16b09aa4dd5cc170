"""Several instances of `bus vendors run` share the partitions of the district's topics."""

from __future__ import annotations

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import ExitStack, closing, contextmanager
from sqlite3 import connect

import pytest

from bus.kafka import topics
from bus.kafka.reader import Reader, scan
from bus.kafka.topics import partition_for
from bus.settings import Settings
from bus.vendors import shard, shard_number
from bus.vendors.shard import Shard
from bus.vendors.shard_words import Round, RoundStage, decoded
from bus.vendors.vendor_topics import possible_topics
from tests.integration.commands import Commands, until
from tests.integration.test_vendors import (
    SAMPLE,
    begun,
    district,
    expected,
    received,
    run,
    write_agreement,
)

SHARDS = 3


@pytest.fixture
def vendors(commands: Commands) -> Commands:
    """The first day of a small district, divided into three shards, with two agreements."""
    commands.divide(SHARDS)
    commands.variables |= {
        "BUS_TELEMETRY__LOG_LEVEL": "info",
        "BUS_KAFKA__CLIENT": '{"session.timeout.ms": 1500, "heartbeat.interval.ms": 300}',
    }
    produce(commands, 1)
    folder = commands.cwd / "agreements"
    write_agreement(folder, "whole", identifiers="real")
    write_agreement(folder, "school", 'schools = ["school-0001"]')
    return commands


def produce(vendors: Commands, day: int) -> None:
    """Publish a day of the district."""
    path = SAMPLE.write(vendors.cwd / f"day-{day}.zip", day=day)
    vendors.run("produce", "oneroster-csv", str(path))


def is_equal(settings: Settings) -> bool:
    present = district(settings)
    return all(
        received(settings, name) == expected(settings, name, present)
        for name in ("school", "whole")
    )


@contextmanager
def instances(vendors: Commands, number: int) -> Iterator[list[subprocess.Popen[str]]]:
    """Let several instances run, and end them. Those that a test has killed are left out."""
    with ExitStack() as stack:
        running = []
        for _ in range(number):
            process = vendors.start("vendors", "run")
            stack.callback(process.communicate)
            stack.callback(process.kill)
            running.append(process)
        yield running


def worked_by(process: subprocess.Popen[str]) -> set[int]:
    """End an instance; return the shards that it worked at some time."""
    process.terminate()
    said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0, said
    found = re.findall(r'"shards": \[([\d, ]*)\]', said)
    return {int(one) for some in found for one in some.split(",") if one.strip()}


def test_two_instances_work_at_the_same_time(vendors: Commands) -> None:
    settings = vendors.settings
    run(vendors, "apply")
    with instances(vendors, 2) as (one, other):
        until(lambda: is_equal(settings), "the vendors have everything")
        for day in (2, 3, 4):
            produce(vendors, day)
        until(lambda: is_equal(settings), "the vendors have everything")
        mine, theirs = worked_by(one), worked_by(other)
    assert mine
    assert theirs
    assert mine | theirs == set(range(SHARDS + 1))


def test_another_instance_takes_over_the_shards_of_one_that_is_killed(vendors: Commands) -> None:
    settings = vendors.settings
    run(vendors, "apply")
    with instances(vendors, 2) as (one, other):
        until(lambda: is_equal(settings), "the vendors have everything")
        produce(vendors, 2)
        one.kill()
        produce(vendors, 3)
        parts = range(settings.kafka.partitions)
        gone = [
            student_of(settings, number)
            for number in range(1, SHARDS + 1)
            if any(Shard(number, SHARDS).reads("student", part) for part in parts)
        ]
        assert len(gone) > 1
        for student in gone:
            decided = ("--scope", "protected", "--decided-by", "parent")
            vendors.run("optouts", "add", student, *decided)
        until(
            lambda: not {("student", id_) for id_ in gone} & received(settings, "whole").keys(),
            "a student of each shard is deleted",
        )
        until(lambda: is_equal(settings), "the vendors have everything")
        worked_by(other)


def student_of(settings: Settings, number: int) -> str:
    """Return a student of a shard whom a vendor has."""
    return next(
        id_
        for kind, id_ in received(settings, "whole")
        if kind == "student"
        and Shard(number, SHARDS).reads(kind, partition_for(id_, settings.kafka.partitions))
    )


def test_the_shards_are_silent_when_nothing_happens(vendors: Commands) -> None:
    """A withdrawn record that one shard gives up is not sent again and again."""
    settings = vendors.settings
    run(vendors, "apply")

    def said() -> int:
        names = [topics.vendor_shards(settings), *possible_topics(settings, "whole")]
        with Reader(settings, "{}") as reader:
            return sum(reader.ends(names).values())

    with instances(vendors, 1):
        until(lambda: is_equal(settings), "the vendors have everything")
        for day in (2, 3, 4):
            produce(vendors, day)
        until(lambda: is_equal(settings), "the vendors have everything")
        time.sleep(2)
        before = said()
        time.sleep(2)
        assert said() == before


def rounds(settings: Settings) -> dict[str, int]:
    """Return the last round of each agreement."""
    words = [
        decoded(message.key(), message.value())
        for message in scan(settings, topics.vendor_shards(settings), stop={0: 2**62})
    ]
    return {
        word.agreement: word.number
        for word in words
        if isinstance(word, Round) and word.stage is RoundStage.WHOLE
    }


@pytest.mark.parametrize("number", range(SHARDS + 1))
def test_all_is_written_again_when_a_shard_has_lost_its_file(
    vendors: Commands, number: int
) -> None:
    settings = begun(vendors)
    first = rounds(settings)
    produce(vendors, 2)
    file = Shard(number, SHARDS).file(settings)
    for one in file.parent.glob(f"{file.name}*"):
        one.unlink()
    run(vendors, "run", "--until-caught-up")
    assert is_equal(settings)
    later = rounds(settings)
    assert all(later[name] > first[name] for name in ("school", "whole"))


def test_a_file_from_before_a_change_of_the_number_is_not_used(vendors: Commands) -> None:
    """The vendors' topics have changed since then, and the file knows nothing of it."""
    settings = begun(vendors)
    first = rounds(settings)
    vendors.divide(1)
    produce(vendors, 2)
    run(vendors, "run", "--until-caught-up")
    assert is_equal(vendors.settings)
    vendors.divide(SHARDS)
    produce(vendors, 3)
    run(vendors, "run", "--until-caught-up")
    assert is_equal(settings)
    later = rounds(settings)
    assert all(later[name] > first[name] for name in ("school", "whole"))


def test_an_instance_with_another_number_waits_until_the_others_have_ended(
    vendors: Commands,
) -> None:
    settings = vendors.settings
    run(vendors, "apply")
    with instances(vendors, 1) as (one,):
        until(lambda: is_equal(settings), "the vendors have everything")
        vendors.divide(1)
        process = vendors.start("vendors", "run", "--until-caught-up")
        with pytest.raises(subprocess.TimeoutExpired):
            process.communicate(timeout=4)
        worked_by(one)
        said = "".join(process.communicate(timeout=60))
    assert process.returncode == 0
    assert "vendors.shards differs from that of instances that work" in said
    assert shard_number.mark(settings) != ""
    assert is_equal(vendors.settings)


def test_nothing_is_left_in_the_files_of_an_agreement_that_is_deleted(vendors: Commands) -> None:
    settings = begun(vendors)
    run(vendors, "revoke", "whole", "--why", "the contract ended", "--yes")
    run(vendors, "run", "--until-caught-up")
    files = shard.files(settings)
    assert len(files) == SHARDS + 1
    for file in files:
        with closing(connect(file)) as con:
            for table in ("cohort", "need", "needed", "word", "shard", "progress"):
                query = f"SELECT count(*) FROM {table} WHERE agreement = 'whole'"
                assert con.execute(query).fetchone() == (0,), f"{file.name}: {table}"
