"""Rubbish from a seed: CSV rows, zips and Avro messages with random damage."""

from __future__ import annotations

import io
import random
import struct
import warnings
import zipfile
from collections import Counter
from collections.abc import Callable, Sequence

MARK = "zQ7x"
"""Part of the name of every person, so that a leaked value is noticed."""

Bytes = Callable[[random.Random, bytes], bytes]
Cells = Callable[[random.Random, list[str]], list[str]]


def flipped(rng: random.Random, raw: bytes) -> bytes:
    """Flip one or more bits."""
    data = bytearray(raw)
    for _ in range(rng.choice((1, 1, 2, 8))):
        at = rng.randrange(len(data))
        data[at] ^= 1 << rng.randrange(8)
    return bytes(data)


def cut(rng: random.Random, raw: bytes) -> bytes:
    """Cut off the beginning or the end."""
    at = rng.randrange(1, len(raw))
    return rng.choice((raw[:at], raw[at:]))


def doubled(rng: random.Random, raw: bytes) -> bytes:
    """Repeat a piece."""
    at, to = sorted((rng.randrange(len(raw)), rng.randrange(len(raw))))
    return raw[:to] + raw[at:]


def noise(rng: random.Random, raw: bytes) -> bytes:
    """Replace the bytes by random ones, or insert random bytes."""
    at, some = rng.randrange(len(raw)), rng.randbytes(rng.randrange(1, 30))
    return rng.choice((some, raw[:at] + some + raw[at:], raw[:at] + some + raw[at + len(some) :]))


def _inserted(*pieces: bytes) -> Bytes:
    def insert(rng: random.Random, raw: bytes) -> bytes:
        at = rng.randrange(len(raw) + 1)
        return raw[:at] + rng.choice(pieces) + raw[at:]

    return insert


def _encoded(*encodings: str) -> Bytes:
    def encode(rng: random.Random, raw: bytes) -> bytes:
        text = raw.decode("utf-8") + rng.choice(("é", "ñ", "Ω", "日本", "\u2028", "\ufeff"))
        return text.encode(rng.choice(encodings), "replace")

    return encode


ODD = [
    *(
        "",
        " ",
        "\t",
        "null",
        "NULL",
        "None",
        "N/A",
        "#REF!",
        "=1+1",
        "-",
        "0",
        "-1",
        "1e999",
        "NaN",
    ),
    *(
        "Infinity",
        "9" * 30,
        "1.5",
        "0x10",
        "１２",
        "½",
        "true",
        "TRUE",
        "yes",
        "maybe",
        "tobedeleted",
    ),
    *("ToBeDeleted", "inactive", "actíve", "2026-02-30", "2026-13-01", "0000-00-00", "02/03/2026"),
    *("13/13/2026", "20260230", "2026-08-17T25:00:00Z", "2026-08-17T00:00:00+15:00", "1.1.2026"),
    *("46000", "2026-08-17 ", "9999-12-31", "a" * 255, "a" * 256, "b" * 4_000, "c" * 40_000),
    *(
        "x\u0000y",
        "x\u0007y",
        "x\u0085y",
        "x\u2028y",
        "\u202egnirts",
        "🏫",
        "e\u0301" * 40,
        "ﬀ",
        "İ",
    ),
    *("'; DROP TABLE record_org; --", "{}", "[]", "<b>", "%s%n", "../../etc", ",", ",,,", "a,a,b"),
]
"""Cells as people and programs write them."""


def _odd_values(rng: random.Random, cells: list[str]) -> list[str]:
    for _ in range(rng.choice((1, 1, 2, len(cells)))):
        cells[rng.randrange(len(cells))] = rng.choice(ODD)
    return cells


def _columns_lost(rng: random.Random, cells: list[str]) -> list[str]:
    del cells[rng.randrange(len(cells)) :: rng.choice((1, len(cells)))]
    return cells


def _columns_added(rng: random.Random, cells: list[str]) -> list[str]:
    return cells + [rng.choice(ODD) for _ in range(rng.randrange(1, 5))]


def _columns_swapped(rng: random.Random, cells: list[str]) -> list[str]:
    rng.shuffle(cells)
    return cells


CELLS: dict[str, Cells] = {
    "odd values": _odd_values,
    "columns lost": _columns_lost,
    "columns too many": _columns_added,
    "columns swapped": _columns_swapped,
}
BYTES: dict[str, Bytes] = {
    "bits flipped": flipped,
    "cut": cut,
    "a piece twice": doubled,
    "noise": noise,
    "quotes": _inserted(b'"', b'""', b'","', b"'", b'"\n'),
    "line ends": _inserted(b"\n", b"\r", b"\r\n", b"\x0b", b"\x1e"),
    "NUL": _inserted(b"\0", b"\0" * 50),
    "another encoding": _encoded("latin-1", "cp1252", "utf-16-le", "shift-jis", "utf-7", "cp037"),
}


def row(rng: random.Random, cells: Sequence[str]) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged row."""
    damage = rng.choice([*CELLS, *BYTES])
    if damage in CELLS:
        return damage, line(CELLS[damage](rng, list(cells)))
    return damage, BYTES[damage](rng, line(cells))


def line(cells: Sequence[str]) -> bytes:
    """Return a row as RFC 4180 describes it, without a line end."""
    quoted = (
        '"' + c.replace('"', '""') + '"' if any(q in c for q in ',"\n\r') else c for c in cells
    )
    return ",".join(quoted).encode("utf-8")


MESSAGES: dict[str, Bytes] = {
    "bits flipped": flipped,
    "cut": cut,
    "a piece twice": doubled,
    "noise": noise,
    "another schema": lambda rng, raw: (
        raw[:1] + struct.pack(">I", rng.choice((0, 1, 99, 2**31))) + raw[5:]
    ),
    "another frame": lambda rng, raw: (
        rng.choice((b"", b"\1", b"{", b"Obj\1")) + raw[rng.choice((0, 1)) :]
    ),
    "huge lengths": lambda rng, raw: (
        raw[: (at := rng.randrange(5, len(raw)))]
        + rng.choice(
            (b"\xfe\xff\xff\xff\x0f", b"\xff" * 9 + b"\x01", b"\x80" * 200, b"\xff\xff\xff\xff\x07")
        )
        + raw[at:]
    ),
    "nothing": lambda rng, raw: rng.choice((b"", b"\0", b"\0\0\0\0", raw[:5])),
}


def message(rng: random.Random, raw: bytes) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged message."""
    damage = rng.choice(list(MESSAGES))
    return damage, MESSAGES[damage](rng, raw)


def packed(files: dict[str, bytes], how: int = zipfile.ZIP_DEFLATED) -> bytes:
    """Return the files as a zip."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", how) as archive:
        for name, data in files.items():
            archive.writestr(name, data)
    return out.getvalue()


NAMES = [
    *(
        "../orgs.csv",
        "/orgs.csv",
        "..\\orgs.csv",
        "C:\\orgs.csv",
        "\\\\host\\orgs.csv",
        "a/../../orgs.csv",
    ),
    *(
        "orgs.csv\0.txt",
        "ORGS.CSV",
        "export/orgs.csv",
        "a/b/c/d/orgs.csv",
        "__MACOSX/orgs.csv",
        ".orgs.csv",
    ),
    *(
        "orgs.csv/",
        "orgs.csv ",
        " orgs.csv",
        "örgs.csv",
        "\u202eorgs.csv",
        "o" * 300 + ".csv",
        "con.csv",
    ),
    *(
        "users.csv",
        "orgs.txt",
        "",
        ".",
        "..",
        "orgs.csv\n",
        "'orgs.csv",
        'or"gs.csv',
        "orgs.tsv.csv",
    ),
]


def _renamed(rng: random.Random, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            odd = rng.choice(NAMES) if rng.random() < 0.4 else name
            entry = zipfile.ZipInfo(odd or "x")
            entry.filename = odd
            with warnings.catch_warnings(action="ignore"):
                archive.writestr(entry, data)
    return out.getvalue()


def _nested(rng: random.Random, files: dict[str, bytes]) -> bytes:
    inner = packed(files)
    if rng.random() < 0.3:
        return packed({"inner.zip": inner})
    return packed({f"{rng.choice(('', 'a/', 'a/b/', 'A/'))}{name}": d for name, d in files.items()})


def _twice(rng: random.Random, files: dict[str, bytes]) -> bytes:
    out = io.BytesIO()
    with warnings.catch_warnings(action="ignore"), zipfile.ZipFile(out, "w") as archive:
        for name, data in files.items():
            archive.writestr(name, data)
            if rng.random() < 0.3:
                archive.writestr(rng.choice((name, name.upper(), f"./{name}")), data)
    return out.getvalue()


def _field(rng: random.Random, files: dict[str, bytes]) -> bytes:
    """Change a field of a local or central header: size, CRC, method, flags or attributes."""
    data = bytearray(packed(files))
    mark, fields = rng.choice(
        (
            (b"PK\3\4", (4, 6, 8, 14, 18, 22, 26)),
            (b"PK\1\2", (4, 8, 10, 16, 20, 24, 28, 38, 42)),
            (b"PK\5\6", (8, 10, 12, 16, 20)),
        )
    )
    places = [at for at in range(len(data) - 3) if data[at : at + 4] == mark]
    at = rng.choice(places) + rng.choice(fields)
    data[at : at + 2] = rng.choice((rng.randbytes(2), b"\0\0", b"\xff\xff", b"\1\0", b"\x63\0"))
    return bytes(data)


def _bomb(rng: random.Random, files: dict[str, bytes]) -> bytes:
    """Make a zip of hundreds of empty entries, or of one that claims to be large, within limits."""
    if rng.random() < 0.5:
        return packed({f"{n}.csv": b"" for n in range(rng.choice((30, 1_001)))})
    return packed(files | {"orgs.csv": b"\0" * rng.randrange(1, 3_000_000)})


def _methods(rng: random.Random, files: dict[str, bytes]) -> bytes:
    how = rng.choice((zipfile.ZIP_STORED, zipfile.ZIP_BZIP2, zipfile.ZIP_LZMA))
    return rng.choice((flipped, cut, doubled, noise))(rng, packed(files, how))


def _bytes(change: Bytes) -> Callable[[random.Random, dict[str, bytes]], bytes]:
    return lambda rng, files: change(rng, packed(files))


ZIPS: dict[str, Callable[[random.Random, dict[str, bytes]], bytes]] = {
    "bits flipped": _bytes(flipped),
    "cut": _bytes(cut),
    "a piece twice": _bytes(doubled),
    "noise": _bytes(noise),
    "odd names": _renamed,
    "folders and zips in it": _nested,
    "entries twice": _twice,
    "headers that lie": _field,
    "bombs": _bomb,
    "other methods": _methods,
}


def archive(rng: random.Random, files: dict[str, bytes]) -> tuple[str, bytes]:
    """Return the kind of damage and the damaged zip."""
    damage = rng.choice(list(ZIPS))
    return damage, ZIPS[damage](rng, files)


def summary(fates: Counter[str]) -> str:
    """Return the number of each outcome, as text."""
    return ", ".join(f"{number:,} {fate}" for fate, number in fates.most_common() if number)
