"""The arithmetic of the benchmarks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from itertools import product
from pathlib import Path
from tomllib import loads
from types import SimpleNamespace
from typing import Any, cast

import pytest

from bus.bench import vendors_live
from bus.bench.figures import Goal, percentiles
from bus.bench.freshness_benchmark import WARM_UP, freshness, warmed_up
from bus.bench.measured import alone, command
from bus.bench.soak_benchmark import _course
from bus.bench.traffic import CLASS, SINGLY, SentChange, at_once
from bus.bench.usage import Look, Usage
from bus.bench.vendors_district import StudentGroup, VendorsDistrict, agreement_text
from bus.bench.vendors_live import LiveVendors
from bus.demo.sample import GRADES, District
from bus.errors import Stop
from bus.standard import KINDS
from bus.vendors.agreement import parse
from bus.vendors.scope import NEVER_SHARED, compile_scope


def looks(values: list[float]) -> list[Look]:
    return [Look(10.0 * i, 0.0, value, 0) for i, value in enumerate(values)]


def test_the_middle_the_slowest_in_a_hundred_and_the_worst() -> None:
    found = percentiles([n / 1000 for n in range(1001)])
    assert found == {"p50": 500.0, "p99": 990.0, "worst": 1000.0}


def test_what_rises_only_while_warming_up_is_flat() -> None:
    values = [50.0, 80.0, 99.0, *[100.0, 101.0] * 5]
    course = _course(looks(values), values)
    assert course.flat
    assert (course.first, course.last, course.highest) == (50.0, 101.0, 101.0)


def test_a_leak_is_not_flat() -> None:
    values = [100.0 + n for n in range(30)]
    course = _course(looks(values), values)
    assert not course.flat
    assert course.per_hour == pytest.approx(360)
    assert course.rise == pytest.approx(19 / 119.5, abs=0.001)


def test_a_figure_of_nothing_is_flat() -> None:
    values = [0.0] * 10
    assert _course(looks(values), values).flat


def test_many_changes_come_in_arrays() -> None:
    assert at_once(SINGLY) == 1
    assert at_once(SINGLY + 1) == CLASS


def test_what_a_process_uses_is_counted_from_the_first_look() -> None:
    usage = Usage({"me": os.getpid()})
    usage.look()
    until = time.process_time() + 0.1
    while time.process_time() < until:
        pass
    usage.look()
    used = usage.used()["me"]
    assert 0.05 < used.cpu_seconds < 5
    assert used.peak_mib > 5
    usage.forget()
    assert usage.used()["me"].cpu_seconds == 0


def _growing() -> Callable[[], int]:
    def grow() -> int:
        kept = []
        for _ in range(16):
            kept.append(b"x" * 4 * 2**20)
            time.sleep(0.05)
        return len(kept)

    return grow


def test_memory_that_grows_is_seen_from_quarter_to_quarter() -> None:
    _, cost = alone(_growing)
    first, *_, last = cost.quarters
    assert len(cost.quarters) == 4
    assert last > first + 16
    assert last <= cost.peak_mib + 1


def test_a_command_is_measured_with_its_start(tmp_path: Path) -> None:
    program = "import json, os; x = bytearray(200 << 20); print(json.dumps(os.environ['WHO']))"
    found, cost = command([sys.executable, "-c", program], tmp_path, {**os.environ, "WHO": "me"})
    assert found == "me"
    assert 0 < cost.cpu_seconds < 60
    assert cost.peak_mib > 200, "of that process, not of this one"


def test_a_command_that_fails_says_what_it_said(tmp_path: Path) -> None:
    line = [sys.executable, "-c", "import sys; sys.exit('no such thing')"]
    with pytest.raises(Stop, match="no such thing"):
        command(line, tmp_path, dict(os.environ))


def test_the_agreements_of_the_benchmark_share_everything_but_what_is_taken_out() -> None:
    whole = compile_scope(parse("v", loads(agreement_text("v")), "test"))
    assert set(whole.kinds) == KINDS.keys() - NEVER_SHARED
    assert whole.pseudonymous
    text = agreement_text("v", StudentGroup(["school-0001"], ["05"]), ["Student Name"])
    less = compile_scope(parse("v", loads(text), "test"))
    assert "givenName" in whole.kinds["student"].fields
    assert "givenName" not in less.kinds["student"].fields
    assert less.agreement.students.schools == ("school-0001",)
    assert less.agreement.students.grades == ("05",)


@pytest.mark.parametrize("students", [1_200, 5_000, 12_000, 20_000])
def test_twenty_parts_have_each_school_and_grade_once(students: int) -> None:
    schools = tuple(District(students=students).school_ids())
    district = VendorsDistrict(cast(Any, None), cast(Any, None), students, schools)
    found = [
        (school, grade)
        for part in district.parts(20)
        for school in part.schools
        for grade in part.grades or GRADES
    ]
    assert len(district.parts(20)) == 20
    assert sorted(found) == sorted(product(schools, GRADES))


def test_each_receiver_of_a_change_counts_and_the_warm_up_does_not() -> None:
    sent = {
        "early": SentChange(100.0, 100.1),
        "one": SentChange(100.0 + WARM_UP, 100.2 + WARM_UP),
        "two": SentChange(101.0 + WARM_UP, 101.2 + WARM_UP),
    }
    assert warmed_up(sent).keys() == {"one", "two"}
    arrived = {"one": [100.25 + WARM_UP, 100.5 + WARM_UP], "two": [101.5 + WARM_UP] * 2}
    found = freshness(10, sent, arrived, {})
    assert found.delivered == {"p50": 500.0, "p99": 500.0, "worst": 500.0}
    assert found.accepted["p50"] == 200.0
    assert (found.changes, found.through) == (2, 1.3)


def test_a_target_in_words() -> None:
    assert Goal("", 0.5, "times", 0.6, least=True).target_text() == "at least 0.6 times"
    assert Goal("", 90.0, "ms", 250.0).target_text() == "under 250 ms"
    assert Goal("", 1.0, "s", remark="under 600 s").target_text() == "under 600 s"
    assert Goal("", 1.0, "s").target_text() == ""


class _LastArrivals:
    """When the last messages arrived: at the vendor that is revoked, and at the others."""

    def __init__(self, cut_off: float, others: float) -> None:
        self._last = dict.fromkeys(vendors_live.NAMES, others)
        self._last[vendors_live.NAMES[0]] = cut_off

    def last(self, name: str) -> float:
        return self._last[name]


def _live(arrivals: object, run: Callable[..., object]) -> LiveVendors:
    district = SimpleNamespace(stage=SimpleNamespace(run=run))
    traffic = SimpleNamespace(send=lambda *_: None)
    return LiveVendors(cast(Any, district), cast(Any, traffic), cast(Any, arrivals))


@pytest.fixture
def _soon(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(vendors_live, "BEFORE", 0.0)
    monkeypatch.setattr(vendors_live, "QUIET", 0.2)


@pytest.mark.usefixtures("_soon")
def test_a_command_that_fails_during_changes_ends_the_benchmark() -> None:
    def run(*_: str) -> None:
        raise Stop("the cluster forbids it")

    soon = time.time() + 0.5
    with pytest.raises(Stop, match="the cluster forbids it"):
        _live(_LastArrivals(soon, soon), run).revocation(1, vendors_live.NAMES[0])


@pytest.mark.usefixtures("_soon")
def test_a_revocation_is_measured_only_if_the_other_vendors_receive_more() -> None:
    name, last = vendors_live.NAMES[0], time.time() + 0.5
    with pytest.raises(Stop, match="less busy"):
        _live(_LastArrivals(last, last), lambda *_: None).revocation(1, name)
    last = time.time() + 0.5
    live = _live(_LastArrivals(last, last + vendors_live.QUIET), lambda *_: None)
    assert 0 < live.revocation(1, name) <= 0.5
