"""An extract has opt-outs in optOuts.csv, a file that OneRoster does not define."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator
from typing import Any

import pytest

from bus.errors import RetryLater, Stop
from bus.ingest import position, streaming
from bus.registry import subjects
from bus.settings import Settings
from bus.source import ChangeBatch
from tests.cases.district import manifest
from tests.cases.way_in import IDS, Day, WayIn

HEADER = "sourcedId,studentSourcedId,scope,vendor,purpose,decidedBy,beginDate\n"
BOTH = HEADER + "o-1,u-1,directoryInformation,,,parent,2026-09-01\no-2,u-2,vendor,Acme,,parent,\n"


def day(way_in: WayIn, text: str, **how: Any) -> Day:
    """Publish a day whose manifest declares optOuts.csv as bulk."""
    return way_in.day(manifest=manifest() + "file.optOuts,bulk\n", optOuts=text, **how)


def opt_outs(found: Day) -> list[str]:
    return [event for event in found.reported if event.startswith("optOut ")]


def test_they_are_published_and_withdrawn_like_other_records(way_in: WayIn) -> None:
    first = day(way_in, BOTH)
    assert opt_outs(first) == ["optOut o-1 created", "optOut o-2 created"]
    assert first.record("optOut", "o-2")["vendor"] == "Acme"
    assert first.faults == []
    assert opt_outs(day(way_in, BOTH)) == []
    one_less = day(way_in, BOTH.partition("o-2")[0])
    assert opt_outs(one_less) == ["optOut o-2 withdrawn"]


def test_an_extract_without_the_file_withdraws_none(way_in: WayIn) -> None:
    day(way_in, BOTH)
    assert way_in.day().reported == []


def test_a_wrong_combination_changes_and_withdraws_nothing(way_in: WayIn) -> None:
    day(way_in, BOTH)
    wrong = day(way_in, BOTH.replace("Acme", ""))
    assert opt_outs(wrong) == []
    (fault,) = wrong.left_out
    assert (fault.file, fault.line, fault.column, fault.code) == (
        *("optOuts.csv", 3, "vendor"),
        "wrong-combination",
    )


def test_most_of_them_are_not_withdrawn_without_a_person(way_in: WayIn) -> None:
    many = "".join(f"o-{n},u-1,purpose,,purpose {n},parent,\n" for n in range(30))
    day(way_in, HEADER + many)
    with pytest.raises(Stop, match=r"30 of 30 optOut records"):
        day(way_in, HEADER + "o-99,u-1,protected,,,court,\n")


def test_before_the_schema_is_registered_such_an_extract_waits(
    way_in: WayIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(
        subjects, "lookup", lambda _: {k: v for k, v in IDS.items() if k != "optOut"}
    )
    with pytest.raises(RetryLater, match=r"schoolbus\.optOut-value .* `bus schemas apply`"):
        day(way_in, BOTH)
    assert way_in.topics.log == []
    assert way_in.day().report.published > 0, "an extract without opt-outs does not wait"
    monkeypatch.setattr(subjects, "lookup", lambda _: IDS)
    assert opt_outs(day(way_in, BOTH)) == ["optOut o-1 created", "optOut o-2 created"]


def test_before_the_schema_is_registered_a_stream_of_them_ends(
    way_in: WayIn, monkeypatch: pytest.MonkeyPatch
) -> None:
    some = ChangeBatch({"optOut": [{"sourcedId": "o-1"}]}, "1")

    def follow(_: str, __: Callable[[], bool]) -> Iterator[ChangeBatch]:
        yield some

    monkeypatch.setattr(subjects, "lookup", lambda _: {"student": 1})
    monkeypatch.setattr(position, "read", lambda *_: "")
    monkeypatch.setattr(streaming, "Publisher", lambda *_, **__: way_in.topics)
    with pytest.raises(RetryLater, match="bus schemas apply"):
        streaming.stream(Settings(), "sis", follow, threading.Event())
