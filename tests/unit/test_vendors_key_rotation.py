"""A rotation replaces the master key. At every moment, the file opens every wrapped key."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import replace
from functools import partial
from pathlib import Path
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.errors import RetryLater, Stop
from bus.settings import Settings
from bus.vendors import agreement_streams, applied, key_rotation, master_key, pseudonyms
from bus.vendors.agreement_streams import AgreementStreams
from bus.vendors.applied import Applied
from bus.vendors.key_rotation import Rotation, rotate
from tests.fakes.harness import Bus
from tests.kills import Kills
from tests.unit.test_vendors_applied import an_applied

KEYS = {"math-app": bytes([1]) * 64, "library": bytes([2]) * 64}
EARLIER, COMING = bytes([3]) * 64, bytes([4]) * 64
STEPS = ("bus.vendors.applied._send", "bus.vendors.master_key.replace_file")


def district(monkeypatch: pytest.MonkeyPatch, home: Path) -> Settings:
    """Return the settings of a bus with two agreements, one of them renewed and being rekeyed."""
    settings = Bus(monkeypatch, home=home).settings
    (master,) = master_key.read_or_make(settings, needed=False)
    library = replace(an_applied("library"), wrapped_key=sealed(KEYS["library"], master))
    math = replace(
        an_applied(),
        wrapped_key=sealed(KEYS["math-app"], master),
        earlier_key=sealed(EARLIER, master),
        next_key=sealed(COMING, master),
        rekeyed=1,
        key_version=3,
    )
    applied.write(settings, library, math, renewal(math))
    return settings


def renewal(of: Applied) -> Applied:
    return applied.with_keys_of(
        replace(an_applied("math-2", renews="math-app"), ids_name=of.ids_name), of
    )


def sealed(key: bytes, master: bytes) -> bytes:
    return pseudonyms.wrapped(key, master)


def opened(settings: Settings) -> dict[str, tuple[bytes, ...]]:
    """Return the keys of all agreements, opened with the master keys in the file."""
    masters = master_key.read(settings)
    return {
        name: tuple(
            pseudonyms.unwrapped(one, masters)
            for one in (entry.wrapped_key, entry.earlier_key, entry.next_key)
            if one
        )
        for name, entry in applied.read(settings).items()
    }


ALL = {
    "library": (KEYS["library"],),
    "math-app": (KEYS["math-app"], EARLIER, COMING),
    "math-2": (KEYS["math-app"], EARLIER, COMING),
}


@pytest.fixture
def settings(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Settings:
    return district(monkeypatch, tmp_path / "home")


def test_a_new_key_alone_opens_all_keys_and_the_file_stays_private(settings: Settings) -> None:
    (before,), file = master_key.read(settings), master_key.path(settings)
    editions = {name: one.edition for name, one in applied.read(settings).items()}
    assert rotate(settings) == Rotation(file, 3, finished=True, mount=False)
    (after,) = master_key.read(settings)
    assert after != before
    assert opened(settings) == ALL
    assert file.stat().st_mode & 0o777 == 0o600
    assert [one.name for one in file.parent.iterdir()] == [file.name]
    assert {name: one.edition for name, one in applied.read(settings).items()} == editions


def test_killed_at_any_step_nothing_is_lost_and_the_next_run_completes_it(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kills = Kills(STEPS, halves=STEPS[:1])
    count = 0
    for moment in kills.moments():
        settings = district(monkeypatch, tmp_path / str(moment))
        (first,) = master_key.read(settings)
        killed = kills.run(partial(rotate, settings))
        assert opened(settings) == ALL, moment
        during = master_key.read(settings)
        assert rotate(settings).finished
        (last,) = master_key.read(settings)
        assert opened(settings) == ALL, moment
        assert last != first
        if len(during) == 2:
            assert during == (last, first), "the next run completes the rotation that has begun"
        count += killed
    assert count == 7


def test_a_key_that_does_not_open_stops_it_before_anything_changes(settings: Settings) -> None:
    file = master_key.path(settings)
    file.write_text("00" * 32)
    with pytest.raises(Stop, match="does not open the key"):
        rotate(settings)
    assert file.read_text() == "00" * 32


def overtaking(monkeypatch: pytest.MonkeyPatch, act: Callable[[], object]) -> None:
    """Let another command act between the reading and the writing of the next one."""
    send = applied._send

    def overtaken(*arguments: Any) -> None:
        monkeypatch.setattr("bus.vendors.applied._send", send)
        act()
        send(*arguments)

    monkeypatch.setattr("bus.vendors.applied._send", overtaken)


def test_a_revocation_in_between_stays_and_its_key_is_wrapped_too(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    revoked = replace(applied.read(settings)["library"], state="revoked", why="a breach")
    overtaking(monkeypatch, lambda: applied.write(settings, revoked))
    rotate(settings)
    assert applied.read(settings)["library"].why == "a breach"
    assert opened(settings) == ALL


def test_a_command_that_read_before_and_writes_after_keeps_the_new_key(settings: Settings) -> None:
    stale = applied.read(settings)["library"]
    rotate(settings)
    applied.write(settings, replace(stale, confirmed=7))
    assert applied.read(settings)["library"].confirmed == 7
    assert opened(settings) == ALL
    # Kafka never had the earlier key as the last one: the entry was written once, with the new one.
    messages = applied.scan(settings, "schoolbus.vendors")
    assert sum(one.key() == b"library" for one in messages) == 3


def test_a_command_keeps_the_new_key_if_the_rotation_comes_between_its_last_read_and_its_write(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    stale = replace(applied.read(settings)["library"], confirmed=7)
    overtaking(monkeypatch, lambda: rotate(settings))
    applied.write(settings, stale)
    assert applied.read(settings)["library"].confirmed == 7
    assert opened(settings) == ALL
    # Kafka keeps only the last entry.
    last = applied.scan(settings, "schoolbus.vendors")
    values = [one.value() for one in last if one.key() == b"library"]
    assert json.loads(values[-1] or b"")["keyVersion"] == 1


def test_a_key_that_the_earlier_master_key_wrapped_meanwhile_is_wrapped_again(
    settings: Settings,
) -> None:
    masters = master_key.read(settings)
    new = replace(an_applied("new"), wrapped_key=sealed(bytes([9]) * 64, masters[0]))
    rotate(settings)
    applied.write(settings, new)
    with pytest.raises(Stop, match="does not open"):
        opened(settings)
    key_rotation.keep_up(settings, masters)
    assert opened(settings) == ALL | {"new": (bytes([9]) * 64,)}


def test_it_gives_up_and_keeps_both_keys_if_others_write_without_a_break(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("bus.vendors.applied.write", lambda *_: None)
    with pytest.raises(RetryLater, match="the earlier master key is kept"):
        rotate(settings)
    assert len(master_key.read(settings)) == 2
    assert opened(settings) == ALL


# ---- a key that is mounted -----------------------------------------------------------------------


class Mounted:
    """A master key that Schoolbus may not write, and the file for the new one."""

    def __init__(self, settings: Settings, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        self.file, self.new = folder / "mounted", folder / "new.key"
        master_key.path(settings).rename(self.file)
        vendors = settings.vendors.model_copy(update={"master_key_file": str(self.file)})
        self.settings = settings.model_copy(update={"vendors": vendors})
        original = master_key.replace_file

        def replace_file(file: Path, keys: Any) -> None:
            if file == self.file:
                raise OSError(30, "Read-only file system")
            original(file, keys)

        monkeypatch.setattr("bus.vendors.master_key.replace_file", replace_file)

    def mount(self) -> None:
        self.file.write_text(self.new.read_text())

    def rotate(self) -> Rotation:
        done = rotate(self.settings, self.new)
        assert done.file == self.new
        return done


@pytest.fixture
def mounted(settings: Settings, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Mounted:
    return Mounted(settings, tmp_path, monkeypatch)


def test_a_key_that_cannot_be_written_needs_another_file(mounted: Mounted) -> None:
    with pytest.raises(Stop, match="give --new-key-file FILE"):
        rotate(mounted.settings)
    assert opened(mounted.settings) == ALL


def test_a_mounted_key_is_replaced_twice_and_opens_all_keys_at_each_moment(
    mounted: Mounted,
) -> None:
    settings = mounted.settings
    first = master_key.read(settings)
    assert mounted.rotate() == mounted.rotate()  # again: the same new key
    assert not mounted.rotate().finished
    assert opened(settings) == ALL
    both = master_key.read_file(mounted.new)
    assert both[1:] == first and mounted.new.stat().st_mode & 0o777 == 0o600
    mounted.mount()
    assert mounted.rotate() == Rotation(mounted.new, 3, finished=True, mount=True)
    assert opened(settings) == ALL
    assert master_key.read_file(mounted.new) == both[:1]
    assert mounted.rotate().mount, "the file with both keys is still mounted"
    mounted.mount()
    assert mounted.rotate() == Rotation(mounted.new, 0, finished=True, mount=False)
    assert opened(settings) == ALL


def test_a_new_key_that_a_person_made_is_used(mounted: Mounted) -> None:
    mounted.new.write_text("ab" * 32)
    mounted.new.chmod(0o600)
    assert not mounted.rotate().finished
    assert mounted.new.read_text().startswith("ab" * 32 + "\n")
    mounted.mount()
    assert mounted.rotate().finished and opened(mounted.settings) == ALL


def test_a_mounted_rotation_that_is_killed_loses_nothing(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    kills = Kills(STEPS, halves=STEPS[:1])
    for moment in kills.moments():
        folder = tmp_path / str(moment)
        with monkeypatch.context() as patch:
            one = Mounted(district(patch, folder), folder, patch)

            def both_steps(one: Mounted = one) -> None:
                one.rotate()
                one.mount()
                one.rotate()

            kills.run(both_steps)
            assert opened(one.settings) == ALL, moment
            one.rotate()
            one.mount()
            assert one.rotate().finished
            one.mount()
            assert opened(one.settings) == ALL and len(master_key.read(one.settings)) == 1


def test_an_earlier_key_is_not_used_as_a_new_one(mounted: Mounted) -> None:
    mounted.rotate()
    old = mounted.file.read_text()
    mounted.mount()
    mounted.new.write_text(old)
    with pytest.raises(Stop, match="has an earlier master key"):
        mounted.rotate()


# ---- the projection ------------------------------------------------------------------------------


def test_the_projection_finds_the_key_that_was_rotated_since_it_read_the_agreements(
    settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    before = applied.read(settings)["library"]
    rotate(settings)
    given: list[tuple[bytes, bytes]] = []

    def stream(_: Settings, one: Applied, view: Any, masters: Any, *more: Any) -> Any:
        given.append((one.wrapped_key, pseudonyms.unwrapped(one.wrapped_key, masters)))
        return MagicMock(stale=lambda: False)

    monkeypatch.setattr(agreement_streams, "VendorStream", stream)
    streams = AgreementStreams(settings, MagicMock(), MagicMock(), MagicMock(), 1, lambda: 0.0)
    streams._start(before, True)
    (wrapped_key, key) = given[0]
    assert wrapped_key != before.wrapped_key and key == KEYS["library"]
    assert streams.names == ["library"]
