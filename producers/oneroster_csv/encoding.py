"""Converts files in any encoding that extracts use to UTF-8, piece by piece.

OneRoster 1.1 and 1.2 CSV Binding require UTF-8. But Excel writes Windows-1252 or UTF-16, and files
that were assembled from several sources mix UTF-8 and Windows-1252 from line to line.
"""

from __future__ import annotations

import codecs
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

import numpy

from bus.standard.fault_codes import FaultCode

CHUNK = 1024**2
"""Bytes that are read at a time."""
RETURN, FEED = b"\r\n"

UTF_16 = {codecs.BOM_UTF16_LE: "utf-16-le", codecs.BOM_UTF16_BE: "utf-16-be"}

UNREADABLE = "�"
"""The character that replaces undecodable bytes (U+FFFD). A row that contains it is left out."""


@dataclass(frozen=True, slots=True)
class Text:
    r"""A file in UTF-8. It may begin with a byte order mark.

    path:       the file itself if it was UTF-8, else a converted copy.
    lines:      how many lines it has, not counting empty ones at its end.
    regular:    whether all lines end in the same way, with \n or with \r\n.
    notes:      what was wrong with the encoding, for a person.
    unreadable: whether some bytes could not be decoded and were replaced with `UNREADABLE`.
    """

    path: Path
    lines: int
    regular: bool
    notes: tuple[str, ...] = ()
    unreadable: bool = False


def as_utf8(path: Path, folder: Path) -> Text:
    """Return the file as UTF-8 without NUL bytes. A converted copy is written to `folder`."""
    encoding = utf_16(path)
    if encoding is None and (measured := _measured(path)) is not None:
        return measured
    converted = folder / f"{path.stem}.utf8.csv"
    converted.touch(mode=0o600)
    notes, unreadable = [], False
    with path.open("rb") as source, converted.open("wb") as target:
        if encoding:
            notes.append(IS_UTF_16)
            pieces = _from_utf_16(source, encoding)
        else:
            pieces = _from_bytes(source, notes)
        for piece in pieces:
            unreadable = unreadable or UNREADABLE in piece
            if "\0" in piece:
                if NULS not in notes:
                    notes.append(NULS)
                piece = piece.replace("\0", "")
            target.write(piece.encode("utf-8"))
    measured = _measured(converted)
    assert measured is not None  # it has just been written as UTF-8
    return Text(converted, measured.lines, measured.regular, tuple(notes), unreadable)


IS_UTF_16 = "the file is UTF-16, not UTF-8; it was read as UTF-16"
NULS = "the file contains NUL characters; they were removed"
NOT_UTF_8 = "the file is not entirely UTF-8; the other lines were read as Windows-1252"
NOTED = {
    IS_UTF_16: FaultCode.NOT_UTF_8,
    NULS: FaultCode.NUL_CHARACTERS,
    NOT_UTF_8: FaultCode.NOT_UTF_8,
}
"""The fault code of each note."""


def utf_16(path: Path) -> str | None:
    """Return the UTF-16 encoding of a file, or None if it is not UTF-16.

    It is recognized by the byte order mark, or by the zero bytes of ASCII text.
    """
    with path.open("rb") as file:
        head = file.read(4096)
    if head[:2] in UTF_16:
        return UTF_16[head[:2]]
    half = len(head) // 2
    if half >= 8 and head[1::2].count(0) > half * 0.6 and not head[::2].count(0):
        return "utf-16-le"
    if half >= 8 and head[::2].count(0) > half * 0.6 and not head[1::2].count(0):
        return "utf-16-be"
    return None


def _measured(path: Path) -> Text | None:
    """Measure the lines of a UTF-8 file. Return None if it is not UTF-8 or holds NUL bytes.

    numpy counts, because an extract of a million students is 1.5 GB and `bytes.count` takes four
    times as long to find the line ends.
    """
    decoder = codecs.getincrementaldecoder("utf-8")()
    feeds = returns = pairs = at_end = 0
    last = b""
    with path.open("rb") as file:
        while chunk := file.read(CHUNK):
            if b"\0" in chunk:
                return None
            if not chunk.isascii() or decoder.getstate()[0]:
                try:
                    decoder.decode(chunk)
                except UnicodeDecodeError:
                    return None
            octets = numpy.frombuffer(chunk, numpy.uint8)
            ends = numpy.flatnonzero(octets == FEED)
            feeds += len(ends)
            if b"\r" in chunk:
                returns += int(numpy.count_nonzero(octets == RETURN))
                pairs += int(numpy.count_nonzero(octets[ends[ends > 0] - 1] == RETURN))
            pairs += last == b"\r" and chunk.startswith(b"\n")
            last = chunk[-1:]
            text = chunk.rstrip(b"\r\n") if last in (b"\r", b"\n") else chunk
            empty = chunk[len(text) :].count(b"\n")
            at_end = empty if text else at_end + empty
    try:
        decoder.decode(b"", final=True)
    except UnicodeDecodeError:
        return None
    lines = feeds - at_end + 1
    return Text(path, lines, regular=returns in (0, pairs) and pairs in (0, feeds))


def _from_utf_16(source: BinaryIO, encoding: str) -> Iterator[str]:
    decoder = codecs.getincrementaldecoder(encoding)(errors="replace")
    while chunk := source.read(CHUNK):
        yield decoder.decode(chunk)
    yield decoder.decode(b"", final=True)


def _from_bytes(source: BinaryIO, notes: list[str]) -> Iterator[str]:
    """Decode each line separately, because one may be UTF-8 and the next Windows-1252."""
    while line := source.readline(CHUNK):
        try:
            yield line.decode("utf-8")
        except UnicodeDecodeError:
            if NOT_UTF_8 not in notes:
                notes.append(NOT_UTF_8)
            yield line.decode("cp1252", errors="replace")
