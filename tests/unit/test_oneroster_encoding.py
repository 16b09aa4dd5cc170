"""The encodings of extracts."""

from __future__ import annotations

import stat
from pathlib import Path

import pytest

from producers.oneroster_csv import encoding
from producers.oneroster_csv.encoding import Text, as_utf8

NAMES = "sourcedId,givenName\n1,Zoë\n2,Łukasz\n3,李\n"


def read(folder: Path, raw: bytes) -> tuple[Text, str]:
    work = folder / "work"
    work.mkdir(exist_ok=True)
    (folder / "users.csv").write_bytes(raw)
    text = as_utf8(folder / "users.csv", work)
    return text, text.path.read_text("utf-8-sig")


@pytest.mark.parametrize("bom", [b"", b"\xef\xbb\xbf"])
def test_utf_8_is_read_where_it_lies_with_or_without_a_mark(tmp_path: Path, bom: bytes) -> None:
    text, found = read(tmp_path, bom + NAMES.encode())
    assert found == NAMES
    assert text.path == tmp_path / "users.csv"
    assert text.notes == ()


@pytest.mark.parametrize("name", ["utf-16", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("chunk", [3, 1024])
def test_utf_16_with_a_mark_or_without(
    tmp_path: Path, name: str, chunk: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    text, found = read(tmp_path, NAMES.encode(name))
    assert found == NAMES
    assert text.notes == ("the file is UTF-16, not UTF-8; it was read as UTF-16",)
    assert stat.S_IMODE(text.path.stat().st_mode) == 0o600


def test_windows_1252(tmp_path: Path) -> None:
    text, found = read(tmp_path, "1,Zoë\n2,O’Neill\n".encode("cp1252"))
    assert found == "1,Zoë\n2,O’Neill\n"
    assert text.notes == (encoding.NOT_UTF_8,)


def test_lines_of_both(tmp_path: Path) -> None:
    _, found = read(tmp_path, "1,李\n".encode() + "2,Zoë\n".encode("cp1252"))
    assert found == "1,李\n2,Zoë\n"


def test_bytes_that_are_no_text_are_marked(tmp_path: Path) -> None:
    text, found = read(tmp_path, b"1,Ada\n2,\x81\xff\n")
    assert text.unreadable
    assert found == "1,Ada\n2,\N{REPLACEMENT CHARACTER}ÿ\n"


def test_nul_characters_are_taken_out(tmp_path: Path) -> None:
    text, found = read(tmp_path, b"sourcedId,givenName\n1,A\0da\n")
    assert found == "sourcedId,givenName\n1,Ada\n"
    assert text.notes == (encoding.NULS,)


@pytest.mark.parametrize(
    ("raw", "lines", "regular"),
    [
        ("a\nb\nc", 3, True),
        ("a\nb\nc\n", 3, True),
        ("a\r\nb\r\n\r\n\r\n", 2, True),
        ("a\nb\r\nc\n", 3, False),
        ("a\rb\rc", 1, False),
        ("a\r\nb\rc\r\n", 2, False),
        ("a\n\nb\n", 3, True),
    ],
)
@pytest.mark.parametrize("chunk", [1, 2, 3, 1024])
def test_lines_are_counted(
    tmp_path: Path,
    raw: str,
    lines: int,
    regular: bool,
    chunk: int,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(encoding, "CHUNK", chunk)
    text, _ = read(tmp_path, raw.encode())
    assert (text.lines, text.regular) == (lines, regular)
