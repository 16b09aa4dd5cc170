"""A small run of `bus bench vendors`: the throughput and the rewriting, on the shared bus."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from threading import Thread
from typing import Any, cast

import pytest

from bus.bench import vendors_rewriting, vendors_throughput
from bus.bench.measured import Cost
from bus.bench.vendors_district import published
from bus.demo.stage import Stage
from bus.kafka import topics
from bus.kafka.reader import Reader
from bus.settings import Settings
from bus.vendors import applied
from bus.vendors.runner import Runner
from tests.integration.commands import Commands

STUDENTS = 40


class Running:
    """The projection in a thread, with the methods of a process that the benchmark calls."""

    def __init__(self, settings: Settings) -> None:
        self._runner = Runner(settings)
        self._thread = Thread(target=self._runner.run)
        self._thread.start()

    def terminate(self) -> None:
        self._runner.stop()

    def wait(self, seconds: float) -> None:
        self._thread.join(seconds)
        assert not self._thread.is_alive()


class StageOfCommands:
    """What the benchmark needs of a `Stage`, on the shared bus."""

    def __init__(self, commands: Commands) -> None:
        self.commands, self.folder, self.settings = commands, commands.cwd, commands.settings

    def set(self, **variables: str) -> None:
        self.commands.variables |= variables

    def run(self, *arguments: str, patience: float = 0.0) -> dict[str, Any]:
        return self.commands.run(*arguments)

    def start(self, name: str, *arguments: str) -> Running:
        assert arguments == ("vendors", "run")
        return Running(self.settings)


def here(work: Callable[..., Any], *arguments: Any) -> tuple[Any, Cost]:
    """Do the work in this process."""
    return work(*arguments)(), Cost(1.0, 1.0, 1.0)


def beside_each_other(
    works: Sequence[tuple[Callable[..., Callable[[], Any]], Sequence[Any], Any]],
) -> tuple[list[Any], Cost]:
    """Do the works in threads of this process."""
    ready = [work(*arguments) for work, arguments, _ in works]
    with ThreadPoolExecutor() as pool:
        return list(pool.map(lambda one: one(), ready)), Cost(1.0, 1.0, 1.0)


def test_the_throughput_and_the_rewriting(
    commands: Commands, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for name, value in {
        "TEN": 2,
        "FIFTY": 2,
        "PARTS": 2,
        "alone": here,
        "together": beside_each_other,
    }.items():
        monkeypatch.setattr(vendors_throughput, name, value)
    settings = commands.settings
    stage = cast(Stage, StageOfCommands(commands))
    district = published(stage, settings.topic_prefix, STUDENTS)
    said: list[str] = []

    (beside, more, several), goals = vendors_throughput.measure(district, 1, said.append)
    one, bare = (figure.records for figure in beside.figures)
    assert STUDENTS < one < bare, "some students have opt-outs"
    assert [figure.records for figure in more.figures[:2]] == [one, 2 * one]
    assert STUDENTS < more.figures[2].records < 2 * one, "each has a part of the students"
    assert len(goals) == 4
    assert [figure.records for figure in several.figures] == [2 * one, 2 * one]
    assert all(each.closed == "revoked" for each in applied.read(settings).values())
    with Reader(settings, "{}") as reader:
        assert not reader.places([topics.topic(settings, "vendor.one-0.student")])

    goals = vendors_rewriting.measure(district, said.append)
    assert [goal.unit for goal in goals] == ["s"] * 3
    assert all(goal.figure > 0 and "600 s for 1,000,000" in goal.target_text() for goal in goals)
    assert {name for name, each in applied.read(settings).items() if each.state == "active"} == {
        "first",
        "second",
    }
