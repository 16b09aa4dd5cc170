"""The master key is made once, only its owner can read it, and it is never replaced."""

from __future__ import annotations

from pathlib import Path

import pytest

from bus.errors import Stop
from bus.settings import Settings, VendorsSettings
from bus.vendors import master_key


@pytest.fixture
def settings(tmp_path: Path) -> Settings:
    return Settings(home=tmp_path / "home")


def test_it_is_made_once(settings: Settings) -> None:
    keys = master_key.read_or_make(settings, needed=False)
    file = settings.home / "vendors" / "master.key"
    assert [len(key) for key in keys] == [32]
    assert file.stat().st_mode & 0o777 == 0o600
    assert file.parent.stat().st_mode & 0o777 == 0o700
    assert [one.name for one in file.parent.iterdir()] == ["master.key"]
    assert master_key.read_or_make(settings, needed=False) == keys == master_key.read(settings)


def test_another_file_may_be_named(settings: Settings, tmp_path: Path) -> None:
    named = settings.model_copy(
        update={"vendors": VendorsSettings(master_key_file=str(tmp_path / "elsewhere" / "k"))}
    )
    master_key.read_or_make(named, needed=False)
    assert (tmp_path / "elsewhere" / "k").exists()
    assert not settings.home.exists()


def test_a_missing_key_that_is_needed_is_not_replaced(settings: Settings) -> None:
    with pytest.raises(Stop, match="restore it from the backup"):
        master_key.read_or_make(settings, needed=True)
    assert not master_key.path(settings).exists()


def test_a_key_that_others_can_read_is_refused(settings: Settings) -> None:
    master_key.read_or_make(settings, needed=False)
    master_key.path(settings).chmod(0o640)
    with pytest.raises(Stop, match="chmod 600"):
        master_key.read(settings)


@pytest.mark.parametrize("text", ["", "00" * 31, "zz" * 32, "clé"])
def test_a_file_that_is_not_a_key_is_refused_and_not_quoted(settings: Settings, text: str) -> None:
    master_key.read_or_make(settings, needed=False)
    master_key.path(settings).write_text(text, "utf-8")
    with pytest.raises(Stop) as error:
        master_key.read(settings)
    assert text == "" or text not in str(error.value)
