"""The made-up district of a sandbox, and the agreement that is fitted to it."""

from __future__ import annotations

import random
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from datetime import date, timedelta
from pathlib import Path

import pytest
from pydantic import ValidationError

from bus import local
from bus.errors import Stop
from bus.local import Endpoints
from bus.sandbox.daily_changes import DailyChanges, joined
from bus.sandbox.fitted_agreement import fitted
from bus.sandbox.living_sandbox import SandboxStart
from bus.sandbox.made_up_district import MadeUpDistrict, made_for
from bus.sandbox.sandbox_home import running_bus
from bus.sandbox.vendor_bus import sandbox_settings
from bus.settings import Settings
from bus.standard.json import from_json, to_json
from bus.standard.kinds import KINDS
from bus.vendors.agreement import Agreement
from bus.vendors.rollout import VendorAccess
from bus.vendors.scope import OPT_OUT, compile_scope
from tests.agreements import DAY, an_agreement

NEAR_AND_FAR = (date(2020, 2, 29), date(2026, 7, 31), date(2027, 8, 1), date(2031, 1, 1))


def test_a_sandbox_takes_no_setting_from_its_surroundings(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "bus.toml").write_text(
        '[consumer]\nbatch_records = 7\n[vendors]\nbootstrap = "k:1"'
    )
    monkeypatch.setenv("BUS_VENDORS__MASTER_KEY_FILE", "/of/the/district")
    monkeypatch.setenv("BUS_TOPIC_PREFIX", "other")
    monkeypatch.setenv("BUS_KAFKA__BOOTSTRAP", "k:2")
    found = sandbox_settings(Path("home"))
    assert found.home == tmp_path / "home" and found.embedded
    for name in ("vendors", "consumer", "topic_prefix", "registry", "products"):
        default = Settings.model_fields[name].get_default(call_default_factory=True)
        assert getattr(found, name) == default
    with pytest.raises(ValidationError):
        found.home = tmp_path  # type: ignore[misc]


def test_an_agreement_that_holds_keeps_its_dates() -> None:
    agreement = an_agreement()
    fit = fitted(agreement, DAY)
    assert fit.notes == ()
    assert (fit.agreement.from_, fit.agreement.until) == (agreement.from_, agreement.until)
    assert fit.agreement.share == agreement.share


@pytest.mark.parametrize("day", NEAR_AND_FAR)
def test_dates_are_moved_so_that_the_agreement_holds(day: date) -> None:
    agreement = an_agreement(history=date(2026, 6, 1))
    fit = fitted(agreement, day)
    assert fit.agreement.active(day)
    assert fit.agreement.until - fit.agreement.from_ == agreement.until - agreement.from_
    assert fit.agreement.history is not None
    assert agreement.from_ - date(2026, 6, 1) == fit.agreement.from_ - fit.agreement.history
    assert "moves its dates by" in fit.notes[0]


def test_moved_dates_stay_the_same_until_they_are_over() -> None:
    agreement = an_agreement()
    first = fitted(agreement, date(2031, 1, 1)).agreement
    assert fitted(agreement, first.from_).agreement == first
    assert fitted(agreement, first.until).agreement == first
    assert fitted(agreement, first.until + timedelta(days=1)).agreement != first


def test_a_renewal_has_the_topics_of_what_it_renews() -> None:
    fit = fitted(an_agreement("math-2028", renews="math-app"), DAY)
    assert (fit.agreement.name, fit.agreement.renews) == ("math-app", "")
    assert "math-app" in fit.notes[0]


def test_nothing_is_sent_by_other_ways() -> None:
    agreement = an_agreement(
        ways=["kafka", "oneroster"],
        webhook={"url": "https://vendor.example/events"},
        csv={"folder": "out"},
    )
    fit = fitted(agreement, DAY)
    assert fit.agreement.ways == ("kafka",)
    assert fit.agreement.webhook is fit.agreement.csv is None
    assert "other ways" in fit.notes[0]


@pytest.mark.parametrize(
    ("agreement", "text"),
    [
        (an_agreement(ways=["oneroster"]), "Kafka"),
        (an_agreement(until=date(2026, 7, 1)), "before the first"),
    ],
)
def test_an_agreement_that_no_sandbox_can_serve(agreement: Agreement, text: str) -> None:
    with pytest.raises(Stop, match=text):
        fitted(agreement, DAY)


SELECTORS: tuple[dict[str, list[str]], ...] = (
    {},
    {"schools": ["s-17"]},
    {"schools": ["north", "south", "east"], "grades": ["07"]},
    {"grades": ["PK", "12"]},
    {"classes": ["alg-1", "alg-2"]},
    {"schools": ["north"], "grades": ["PK"], "classes": [f"c{n}" for n in range(40)]},
    {"schools": [f"s{n}" for n in range(12)], "grades": ["05"]},  # 13 schools, as many as grades
)


@pytest.mark.parametrize("selectors", SELECTORS, ids=str)
def test_the_district_has_what_the_agreement_selects(selectors: dict[str, list[str]]) -> None:
    agreement = an_agreement(students=selectors)
    district = made_for(agreement, DAY, sections=2)
    roster = district.roster(compile_scope(agreement))
    assert district.lacks(agreement) == []
    assert len(roster) >= 20
    assert (len(roster) < len(district.of("student"))) == bool(selectors)
    for school in agreement.students.schools:
        assert any(school in district.records["student", one]["orgSourcedIds"] for one in roster), (
            school
        )
    for grade in agreement.students.grades:
        assert any(district.records["student", one]["grades"] == [grade] for one in roster), grade
    assert_valid(district)


def test_the_district_has_every_kind_and_opt_outs() -> None:
    district = made_for(an_agreement(), DAY)
    assert {kind for kind, _ in district.records} == set(KINDS)
    assert any(one["scope"] == "protected" for one in district.of(OPT_OUT))


def test_students_of_an_agreement_on_consent_have_consents() -> None:
    agreement = an_agreement(basis="consent")
    scope, district = compile_scope(agreement), made_for(agreement, DAY, sections=1)

    def shared() -> set[str]:
        outs = district.of(OPT_OUT)
        return {
            student
            for student in district.roster(scope)
            if not scope.keeps_out([o for o in outs if o["studentSourcedId"] == student], DAY)
        }

    before = shared()
    assert before == set(district.without_opt_outs(district.roster(scope))) and len(before) > 20
    joined(district, min(before), random.Random(1))
    assert len(shared()) == len(before) + 1
    assert_valid(district)


def test_attendance_and_results_are_within_the_shared_history() -> None:
    agreement = an_agreement(history=DAY - timedelta(days=3))
    district = made_for(agreement, DAY)
    days = [one["eventDate"] for one in district.of("attendance")]
    days += [one["scoreDate"] for one in district.of("result")]
    assert days
    assert all(DAY - timedelta(days=3) <= day <= DAY for day in days)


def test_a_district_of_an_earlier_agreement_may_lack_a_school() -> None:
    district = made_for(an_agreement(), DAY)
    other = an_agreement(students={"schools": ["elsewhere"], "classes": ["alg-1"]})
    assert district.lacks(other) == ["elsewhere", "alg-1"]


def test_days_change_the_district_in_every_way_and_keep_its_size() -> None:
    agreement = an_agreement(students={"grades": ["06"]})
    scope, district = compile_scope(agreement), made_for(agreement, DAY)
    before, size = dict(district.records), len(district.roster(scope))
    days = DailyChanges(district, scope, random.Random(1))
    seen = set()
    for _ in range(20):
        for key in days.next_day(DAY):
            old, new = before.get(key), district.records[key]
            if old is None:
                seen.add((key[0], "created"))
            elif new["status"] != "active":
                seen.add((key[0], "withdrawn"))
            elif key[0] == "student" and new["familyName"] != old["familyName"]:
                seen.add((key[0], "renamed"))
        changed = {key for key, one in district.records.items() if before.get(key) != one}
        before = dict(district.records)
        assert changed
    assert seen >= {
        ("student", "created"),
        ("student", "withdrawn"),
        ("student", "renamed"),
        ("enrollment", "created"),
        ("enrollment", "withdrawn"),
        ("optOut", "created"),
        ("optOut", "withdrawn"),
        ("attendance", "created"),
    }
    assert abs(len(district.roster(scope)) - size) <= 1
    assert_valid(district)


def test_every_changed_record_is_reported() -> None:
    agreement = an_agreement()
    district = made_for(agreement, DAY)
    days = DailyChanges(district, compile_scope(agreement), random.Random(2))
    for _ in range(10):
        before = dict(district.records)
        reported = set(days.next_day(DAY))
        changed = {key for key, one in district.records.items() if before.get(key) != one}
        assert changed <= reported


def assert_valid(district: MadeUpDistrict) -> None:
    """Check each record against the standard, and that what it refers to is there."""
    for (kind, id_), record in district.records.items():
        assert record["sourcedId"] == id_
        assert from_json(kind, to_json(kind, record)) == record
        for field, kinds in KINDS[kind].references.items():
            value = record[field]
            for one in value if isinstance(value, list) else [value] if value else []:
                assert any((other, one) in district.records for other in kinds), (kind, field)


# ---- the folder ----------------------------------------------------------------------------------


@pytest.fixture
def calls(monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Replace the bus, and return what was done with it."""
    found: list[str] = []

    def up(home: Path, *, say: Callable[[str], None]) -> Endpoints:
        found.append("up")
        return Endpoints("127.0.0.1:1", "http://127.0.0.1:2")

    monkeypatch.setattr(local, "up", up)
    monkeypatch.setattr(local, "down", lambda home: found.append("down"))
    return found


@contextmanager
def opened(home: Path, calls: list[str]) -> Iterator[Endpoints]:
    with running_bus(home, lambda _: None, lambda: calls.append("ending")) as found:
        yield found


def test_the_bus_ends_with_the_block_and_may_begin_again(tmp_path: Path, calls: list[str]) -> None:
    for _ in range(2):
        with opened(tmp_path / "home", calls):
            assert calls[-1] == "up"
    assert calls == ["up", "ending", "down"] * 2


def test_the_bus_ends_when_the_block_fails(tmp_path: Path, calls: list[str]) -> None:
    with pytest.raises(KeyboardInterrupt), opened(tmp_path / "home", calls):
        raise KeyboardInterrupt
    assert calls == ["up", "ending", "down"]


def test_two_sandboxes_do_not_share_a_folder(tmp_path: Path, calls: list[str]) -> None:
    home = tmp_path / "home"
    with (
        opened(home, calls),
        pytest.raises(Stop, match="another sandbox runs"),
        opened(home, calls),
    ):
        pass
    assert calls == ["up", "ending", "down"]


def test_a_folder_with_something_else_is_left_alone(tmp_path: Path, calls: list[str]) -> None:
    (tmp_path / "bus.toml").write_text('home = "/srv/bus"\n')
    with pytest.raises(Stop, match="something other than a sandbox"), opened(tmp_path, calls):
        pass
    assert calls == []
    assert (tmp_path / "bus.toml").read_text() == 'home = "/srv/bus"\n'


def test_the_five_lines_compile_and_name_all_kinds() -> None:
    topics = {"student": "a", "class": "b"}
    start = SandboxStart("math-app", VendorAccess(topics, "g", "127.0.0.1:1", "http://r"), 3)
    compile(start.program, "reader.py", "exec")
    assert 'subscribe("student", "class", agreement="math-app"' in start.program
    assert start.variables["BUS_KAFKA__BOOTSTRAP"] == "127.0.0.1:1"
