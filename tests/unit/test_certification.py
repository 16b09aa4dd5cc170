"""How a certification judges what a subscriber holds."""

from __future__ import annotations

import json
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from datetime import UTC, date, datetime
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest

from bus.errors import Stop
from bus.sandbox.certification import (
    NO_STATE,
    NOTHING_CHANGED,
    Certification,
    CertificationReport,
    StepResult,
    another_id,
    field_to_add,
    field_to_cut,
)
from bus.sandbox.made_up_district import made_for
from bus.sandbox.state_file import StateDifference, StateError, described, differences, read_state
from bus.sandbox.subscriber import Subscriber
from bus.settings import KafkaSettings, RegistrySettings, Settings
from bus.vendors.applied import fingerprint
from bus.vendors.district_view import student_of
from bus.vendors.scope import compile_scope
from tests import golden_file
from tests.agreements import DAY, an_agreement
from tests.shapes import shape

MOMENT = datetime(2026, 11, 28, 8, 15, tzinfo=UTC)


def written(path: Path, *lines: Any) -> Path:
    path.write_text("".join(f"{json.dumps(one)}\n" for one in lines))
    return path


def line(id_: str, **record: Any) -> dict[str, Any]:
    return {"kind": "student", "id": id_, "record": record}


# ---- the state file ------------------------------------------------------------------------------


def test_a_state_file_is_read(tmp_path: Path) -> None:
    path = written(tmp_path / "state", line("a", grades=["07"]), line("b"))
    assert read_state(path) == {("student", "a"): {"grades": ["07"]}, ("student", "b"): {}}


@pytest.mark.parametrize(
    ("text", "reason"),
    [
        ('{"kind": "student", "id": "a"}\n', "line 1"),
        ("Zebulon\n", "line 1"),
        ('{"kind": "student", "id": 7, "record": {}}\n', "line 1"),
        ("[]\n", "line 1"),
        ('{"kind": "k", "id": "a", "record": {}}\n' * 2, "line 2 of the state file repeats"),
    ],
)
def test_a_wrong_state_file_says_where_and_no_value(tmp_path: Path, text: str, reason: str) -> None:
    (tmp_path / "state").write_text(text)
    with pytest.raises(StateError, match=reason) as caught:
        read_state(tmp_path / "state")
    assert "Zebulon" not in str(caught.value)


@pytest.mark.parametrize(
    ("right", "held"),
    [
        (date(2026, 11, 28), "2026-11-28"),
        (date(2026, 11, 28), 20785),
        (MOMENT, "2026-11-28T08:15:00.000Z"),
        (MOMENT, "2026-11-28 02:15:00-06:00"),
        (MOMENT, 1795853700000),
        (3.0, 3),
        (None, None),
        (["a", "b"], ["a", "b"]),
        (True, True),
    ],
)
def test_values_that_mean_the_same(right: Any, held: Any) -> None:
    key = ("result", "r")
    assert differences({key: {"value": right}}, {key: {"value": held}}) == []


@pytest.mark.parametrize(
    ("right", "held"),
    [
        (date(2026, 11, 28), "2026-11-29"),
        (date(2026, 11, 28), None),
        (MOMENT, "2026-11-28T08:15:00"),  # without a zone
        (MOMENT, "now"),
        (MOMENT, None),
        (True, 1),
        (1.0, True),
        (None, ""),
        (["a", "b"], ["b", "a"]),
    ],
)
def test_values_that_differ(right: Any, held: Any) -> None:
    key = ("result", "r")
    found = differences({key: {"value": right}}, {key: {"value": held}})
    assert found == [StateDifference("result", "different", "r", ("value",))]


def test_a_missing_field_is_null_and_a_field_too_many_is_found() -> None:
    key = ("student", "a")
    assert differences({key: {"email": None}}, {key: {}}) == []
    assert differences({key: {}}, {key: {"email": None}}) == []
    (found,) = differences({key: {}}, {key: {"email": "zebulon@x.example"}})
    assert found.fields == ("email",)


def test_differences_are_reported_with_ids_and_without_values() -> None:
    right = {("student", f"s{n}"): {"name": "Zebulon"} for n in range(8)}
    state = {("student", "s0"): {"name": "Other"}, ("class", "c"): {}}
    assert list(described(differences(right, state))) == [
        "class: 1 record is there that must not be there: c",
        "student: 1 record is different in name: s0",
        "student: 7 records are missing: s1, s2, s3, …",
    ]


# ---- the judgment of a step ----------------------------------------------------------------------


class FakeProgram:
    """A program that writes the records it was given to its file whenever the file is missing."""

    def __init__(self, state: Path, *held: dict[str, Any]) -> None:
        self.state, self.kinds, self.held = state, ("student",), list(held)
        self.status: int | None = None

    def ended(self) -> int | None:
        if not self.state.exists() and self.held:
            written(self.state, *self.held)
        return self.status


def judged(program: FakeProgram, *expected: dict[str, Any]) -> StepResult:
    """Return the result of a step after which these records must be there."""
    return certification(program, *expected)._judged("a step", everything_again=False)


def certification(program: FakeProgram, *expected: dict[str, Any]) -> Certification:
    bus: Any = SimpleNamespace(
        received=lambda kinds: {
            (one["kind"], one["id"]): one["record"] for one in expected if one["kind"] in kinds
        }
    )
    return Certification(bus, program, patience=0.3)  # type: ignore[arg-type]


def test_a_step_passes_with_the_right_state(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path / "state", line("a"))
    other = {"kind": "class", "id": "c", "record": {}}  # a kind that the program does not read
    assert judged(program, line("a"), other) == StepResult("a step", (), 1)


def test_an_old_state_file_proves_nothing(tmp_path: Path) -> None:
    written(tmp_path / "state", line("a"))
    assert judged(FakeProgram(tmp_path / "state"), line("a")).problems == (NO_STATE,)


def test_a_step_fails_with_another_state(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path / "state", line("a"), line("b"))
    (problem,) = judged(program, line("a")).problems
    assert problem == "student: 1 record is there that must not be there: b"


def test_a_program_that_ends_fails_the_step(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path / "state")
    program.status = 3
    assert judged(program, line("a")).problems == ("the program ended with status 3",)


def test_a_record_is_reported_once_and_again_when_it_differs_again(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path / "state", line("a"), line("b"))
    run = certification(program, line("a"))
    assert not run._judged("first", False).passed
    assert run._judged("second", False).passed  # the same record, for the same reason
    program.held = [line("a")]
    assert run._judged("third", False).passed
    program.held = [line("a"), line("b")]
    assert not run._judged("fourth", False).passed


def test_a_step_that_changes_nothing_was_not_run(tmp_path: Path) -> None:
    program = FakeProgram(tmp_path / "state", line("a"))
    expected = [line("a")]
    run = certification(program)
    run._bus.received = lambda _: {(one["kind"], one["id"]): one["record"] for one in expected}  # type: ignore[method-assign]
    assert run._judged("first", False).passed
    idle = run._judged("second", False, changes=True)
    assert (idle.passed, idle.problems, idle.not_run) == (False, (), NOTHING_CHANGED)
    assert run._judged("third", False).passed
    expected.append(line("b"))
    program.held.append(line("b"))
    assert run._judged("fourth", False, changes=True).passed
    program.held = [line("a")]
    wrong = run._judged("fifth", False, changes=True)
    assert wrong.problems and not wrong.not_run


# ---- what the steps change -----------------------------------------------------------------------


def test_the_field_that_is_taken_out_and_the_one_that_is_added() -> None:
    agreement = an_agreement(share={"categories": ["Student Name", "Schedule"]})
    cut = field_to_cut(agreement)
    added = field_to_add(agreement, made_for(agreement, DAY).records)
    shared = {f"{k}.{f}" for k, one in compile_scope(agreement).kinds.items() for f in one.fields}
    assert cut in shared
    assert added not in shared
    assert cut.startswith("student.")
    assert added.startswith("student.")
    narrower = an_agreement(share={"categories": ["Student Name", "Schedule"], "without": [cut]})
    assert compile_scope(narrower).kinds.keys() == compile_scope(agreement).kinds.keys()
    assert cut.partition(".")[2] not in compile_scope(narrower).kinds["student"].fields


def test_an_agreement_of_one_field_loses_none() -> None:
    agreement = an_agreement(share={"fields": ["student.grades"]})
    assert field_to_cut(agreement) == ""


def test_another_id_takes_everything_along() -> None:
    agreement = an_agreement()
    district = made_for(agreement, DAY)
    old = next(
        one["studentSourcedId"]
        for one in district.of("attendance")
        if district.records["student", one["studentSourcedId"]]["agentSourcedIds"]
    )
    before = [kind for kind, _ in district.about(old)]
    keys = another_id(district, old)
    new = f"{old}-new"
    assert sorted(kind for kind, _ in district.about(new)) == sorted(before)
    assert district.about(old) == []
    assert len({id_ for kind, id_ in keys if kind == "enrollment"}) == 2 * before.count(
        "enrollment"
    )
    assert any(new in one["agentSourcedIds"] for one in district.of("guardian"))
    assert all(
        student_of(kind, district.records[kind, id_]) == new for kind, id_ in district.about(new)
    )


# ---- the report ----------------------------------------------------------------------------------


def test_the_report_names_the_agreement_and_what_failed() -> None:
    agreement = an_agreement()
    report = CertificationReport(
        agreement,
        "python reader.py",
        ("student",),
        {"schoolbus": "0.1.0"},
        MOMENT,
        (StepResult("One", (), 1_200), StepResult("Two", ("student: 1 record is missing: a",), 3)),
    )
    text = "\n".join(report.lines())
    assert fingerprint(agreement) in text
    assert "passed  One (1,200 records)" in text
    assert "FAILED  Two (3 records)\n          student: 1 record is missing: a" in text
    assert text.endswith("1 of 2 steps failed")
    assert not report.passed
    idle = replace(report, steps=(StepResult("One", (), 3), StepResult("Two", (), 3, "no data")))
    text = "\n".join(idle.lines())
    assert "not run Two (3 records)\n          no data" in text
    assert text.endswith("1 of 2 steps passed; the others were not run")
    assert idle.passed and idle.as_json()["steps"][1]["notRun"] == "no data"
    found = report.as_json()
    assert found["fingerprint"] == fingerprint(agreement)
    assert [one["passed"] for one in found["steps"]] == [True, False]
    shown = [f"json-certify bus vendors certify {line}" for line in shape(found, [".versions"])]
    golden_file.check("public-surface.txt", "json-certify", shown)


# ---- the program's process -----------------------------------------------------------------------


@pytest.fixture
def program(tmp_path: Path) -> Iterator[Subscriber]:
    """A program that writes its environment, and waits."""
    code = (
        "import json, os, pathlib, time\n"
        "path = pathlib.Path(os.environ['CERTIFY_STATE'])\n"
        "part = path.with_suffix('.part')\n"
        "part.write_text(json.dumps(dict(os.environ)))\n"
        "part.rename(path)\n"
        "time.sleep(60)\n"
    )
    with a_program(tmp_path, sys.executable, "-c", code) as found:
        yield found


@contextmanager
def a_program(folder: Path, *command: str) -> Iterator[Subscriber]:
    settings = Settings(
        home=folder,
        topic_prefix="test",
        kafka=KafkaSettings(bootstrap="127.0.0.1:1"),
        registry=RegistrySettings(url="http://127.0.0.1:2"),
    )
    found = Subscriber(settings, "math-app", ("student", "class"), command, folder)
    try:
        yield found
    finally:
        found.kill()


def wait_for(path: Path) -> None:
    until = time.monotonic() + 30
    while not path.exists():
        assert time.monotonic() < until
        time.sleep(0.02)


def test_the_program_gets_its_settings_and_none_of_the_vendors(
    program: Subscriber, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("BUS_KAFKA__SASL_PASSWORD", "secret")
    program.start()
    wait_for(program.state)
    env = json.loads(program.state.read_text())
    assert env["BUS_KAFKA__BOOTSTRAP"] == "127.0.0.1:1"
    assert env["BUS_REGISTRY__URL"] == "http://127.0.0.1:2"
    assert env["BUS_TOPIC_PREFIX"] == "test"
    assert env["CERTIFY_AGREEMENT"] == "math-app"
    assert env["CERTIFY_KINDS"] == "student,class"
    assert env["CERTIFY_GROUP"] == "certify-1"
    assert "BUS_KAFKA__SASL_PASSWORD" not in env
    assert Path(env["BUS_CONFIG"]).read_text() == ""


def test_each_start_has_another_group_and_kill_ends_the_process(program: Subscriber) -> None:
    program.start()
    wait_for(program.state)
    program.state.unlink()
    assert program.ended() is None
    program.start()
    wait_for(program.state)
    assert json.loads(program.state.read_text())["CERTIFY_GROUP"] == "certify-2"
    process = program._process
    assert process is not None
    program.kill()
    assert process.returncode == -9


def test_a_program_that_ends_is_noticed_with_its_last_lines(tmp_path: Path) -> None:
    with a_program(tmp_path, sys.executable, "-c", "print('no such table'); exit(3)") as program:
        program.start()
        assert program._process is not None
        program._process.wait(30)
        assert program.ended() == 3
        assert program.last_lines() == ["no such table"]


def test_a_program_that_does_not_exist(tmp_path: Path) -> None:
    with (
        a_program(tmp_path, str(tmp_path / "nothing")) as program,
        pytest.raises(Stop, match="cannot be started"),
    ):
        program.start()
