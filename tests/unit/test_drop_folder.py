"""The drop folder: a guarded extract waits for an operator, and never undoes a later extract."""

from __future__ import annotations

import os
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from structlog.testing import capture_logs

from bus.errors import RetryLater, Stop
from bus.ingest import drop_folder
from bus.ingest.pipeline import MassWithdrawal

GUARD = "this extract would withdraw 600 of 1,200 student records"


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    monkeypatch.setattr(drop_folder, "SETTLED_SECONDS", 0.0)
    with capture_logs():
        yield tmp_path


def drop(folder: Path, *names: str) -> None:
    """Put extracts in the folder, a second apart. One without a suffix is a folder with a file."""
    for number, name in enumerate(names):
        path = folder / name
        if not path.suffix:
            path.mkdir()
            path /= "users.csv"
        path.write_bytes(name.encode())
        at = time.time() - 100 + number
        os.utime(path, (at, at))


def watched(folder: Path, fate: Callable[[str], Exception | None]) -> list[str]:
    """Watch until all extracts are taken, and return the names that were published."""
    published: list[str] = []

    def take(extract: Path) -> None:
        if (failure := fate(extract.name)) is not None:
            raise failure
        published.append(extract.name)

    def stopped() -> bool:
        return not list(drop_folder._extracts(folder))

    drop_folder.watch(folder, take, stopped, "bus produce sis FOLDER --allow {}".format)
    return published


def guarded(*names: str) -> Callable[[str], Exception | None]:
    """Return a function with which the guard stops these extracts."""
    return lambda name: MassWithdrawal(GUARD) if name in names else None


def lying(folder: Path) -> dict[str, list[str]]:
    """Return the names in each folder, without the reason files."""
    return {
        where: sorted(one.name for one in drop_folder._extracts(folder / where))
        for where in ("taken", "refused", "waiting")
    }


def text(folder: Path, where: str, name: str) -> str:
    return (folder / where / f"{name}.reason.txt").read_text("utf-8")


def test_what_the_guard_stops_waits_and_the_text_says_how_it_goes_on(folder: Path) -> None:
    drop(folder, "mon.zip")
    assert watched(folder, guarded("mon.zip")) == []
    assert lying(folder) == {"taken": [], "refused": [], "waiting": ["mon.zip"]}
    said = text(folder, "waiting", "mon.zip")
    assert GUARD in said and said.endswith("bus produce sis FOLDER --allow mon.zip\n")


@pytest.mark.parametrize("name", ["mon.zip", "mon"])
def test_a_yes_publishes_it(folder: Path, name: str) -> None:
    drop(folder, name)
    watched(folder, guarded(name))
    assert drop_folder.allow(folder, name, lambda extract: extract.name) == name
    assert lying(folder) == {"taken": [name], "refused": [], "waiting": []}
    assert not list((folder / "waiting").glob("*.txt"))


def test_a_later_extract_that_is_published_takes_its_place(folder: Path) -> None:
    drop(folder, "mon.zip", "tue.zip")
    assert watched(folder, guarded("mon.zip")) == ["tue.zip"]
    assert lying(folder) == {"taken": ["tue.zip"], "refused": ["mon.zip"], "waiting": []}
    assert "the later extract tue.zip was published" in text(folder, "refused", "mon.zip")
    with pytest.raises(Stop, match="no extract of this name waits"):
        drop_folder.allow(folder, "mon.zip", pytest.fail)


def test_of_two_that_are_stopped_the_later_waits(folder: Path) -> None:
    drop(folder, "mon.zip", "tue.zip")
    assert watched(folder, guarded("mon.zip", "tue.zip")) == []
    assert lying(folder) == {"taken": [], "refused": ["mon.zip"], "waiting": ["tue.zip"]}


def test_a_later_extract_that_is_refused_changes_nothing(folder: Path) -> None:
    drop(folder, "mon.zip", "tue.zip")
    damaged = {"mon.zip": MassWithdrawal(GUARD), "tue.zip": Stop("damaged")}
    assert watched(folder, damaged.get) == []
    assert lying(folder) == {"taken": [], "refused": ["tue.zip"], "waiting": ["mon.zip"]}
    assert text(folder, "refused", "tue.zip") == "damaged\n"


def test_while_a_later_extract_lies_there_nothing_is_allowed(folder: Path) -> None:
    """The later extract may be published at any moment, and the earlier one would undo it."""
    drop(folder, "mon.zip")
    watched(folder, guarded("mon.zip"))
    drop(folder, "tue.zip")
    with pytest.raises(Stop, match=r"tue\.zip, is in"):
        drop_folder.allow(folder, "mon.zip", pytest.fail)


def test_while_an_extract_is_taken_nothing_is_allowed(folder: Path) -> None:
    drop(folder, "mon.zip")
    watched(folder, guarded("mon.zip"))
    drop(folder, "tue.zip")
    reported: list[str] = []

    def while_taking(_: str) -> None:
        with pytest.raises(RetryLater, match="is being published"):
            drop_folder.allow(folder, "mon.zip", pytest.fail)
        reported.append("logged")

    assert watched(folder, while_taking) == ["tue.zip"]
    assert reported == ["logged"]


def test_a_yes_that_fails_leaves_it_waiting(folder: Path) -> None:
    drop(folder, "mon.zip")
    watched(folder, guarded("mon.zip"))

    def fails(_: Path) -> None:
        raise RetryLater("Kafka does not answer")

    with pytest.raises(RetryLater, match="Kafka"):
        drop_folder.allow(folder, "mon.zip", fails)
    assert lying(folder)["waiting"] == ["mon.zip"]
    assert "--allow mon.zip" in text(folder, "waiting", "mon.zip")


def test_only_what_waits_is_allowed(folder: Path) -> None:
    drop(folder, "mon.zip")
    watched(folder, guarded("mon.zip"))
    for name in ("../waiting/mon.zip", "mon", "", "mon.zip.reason.txt"):
        with pytest.raises(Stop, match=r"waiting: mon\.zip"):
            drop_folder.allow(folder, name, pytest.fail)
