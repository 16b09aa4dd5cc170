"""The arithmetic of the benchmarks."""

from __future__ import annotations

import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from tomllib import loads

import pytest

from bus.bench.freshness_benchmark import _figures
from bus.bench.measured import alone, command
from bus.bench.soak_benchmark import _course
from bus.bench.traffic import CLASS, SINGLY, at_once
from bus.bench.usage import Look, Usage
from bus.bench.vendors_benchmark import agreement_text
from bus.errors import Stop
from bus.standard import KINDS
from bus.vendors.agreement import parse
from bus.vendors.scope import NEVER_SHARED, compile_scope


def looks(values: list[float]) -> list[Look]:
    return [Look(10.0 * i, 0.0, value, 0) for i, value in enumerate(values)]


def test_the_middle_the_slowest_in_a_hundred_and_the_worst() -> None:
    found = _figures([n / 1000 for n in range(1001)])
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
    whole = compile_scope(parse("v", loads(agreement_text("v", [])), "test"))
    assert set(whole.kinds) == KINDS.keys() - NEVER_SHARED
    assert whole.pseudonymous
    text = agreement_text("v", ["school-0001"], ["Student Name"])
    less = compile_scope(parse("v", loads(text), "test"))
    assert "givenName" in whole.kinds["student"].fields
    assert "givenName" not in less.kinds["student"].fields
    assert less.agreement.students.schools == ("school-0001",)
