"""Make the fixture of the upgrade test: a home as this version leaves it after a first day.

    python -m tests.upgrade.make_home tests/upgrade/home-VERSION.tar.xz

It runs the embedded bus with a made-up district of 60 students. Then it stops the bus, packs the
home, the products' folders and the extracts of two days, and describes the contents in
manifest.json. It also plays the second day in a copy, so that the manifest says what this version
does with it. README.md beside this file says when to run it.
"""

from __future__ import annotations

import csv
import io
import json
import lzma
import shutil
import signal
import subprocess
import sys
import tarfile
import tempfile
import zipfile
from importlib.metadata import version
from pathlib import Path
from typing import Any

from confluent_kafka import Producer

from tests.integration.commands import Commands, until
from tests.upgrade.cluster import PREFIX, Cluster
from tests.upgrade.district import PRODUCTS, SECRET, District, post, rows_in, told
from tests.webhook_receiver import Receiver

SAMPLE = ("--students", "60", "--seed", "11", "--change", "0.15")
PARTITIONS = "2"
"""Fewer than the default, for a smaller archive. Later code must use the cluster's own number."""

LEFT_OUT = ("logs", "run")
"""Parts of a home that are not needed after `bus down`."""

YEAR_END, FAR_AWAY = "2027-07-31", "2099-07-31"
"""Last days of classes are moved far ahead.

The set of School Data Sync has no rows whose last day is over, and the fixture must outlive a year.
"""

HOST = "sis.district.example"
NAMELESS = f"""\
import runpy, socket, sys
socket.gethostname = lambda: {HOST!r}
sys.argv[0] = "bus"
runpy.run_module("bus", run_name="__main__")
"""


class Nameless(Commands):
    """`bus …` that notes no name of this user and machine, because the archive is public."""

    __slots__ = ()

    def _line(self, *arguments: str) -> list[str]:
        return [sys.executable, "-c", NAMELESS, *arguments, "--json"]


def main(archive: Path) -> None:
    """Make the archive."""
    with tempfile.TemporaryDirectory(prefix="bus-") as made:
        district = _district(Path(made) / "first")
        manifest = _first_day(district)
        copy = Path(made) / "copy"
        shutil.copytree(district.folder, copy, symlinks=True)
        manifest["day2"] = _second_day(_district(copy))
        note = district.folder / "manifest.json"
        note.write_text(json.dumps(manifest, indent=1) + "\n", "utf-8")
        _pack(district.folder, archive)
    print(f"{archive}: {archive.stat().st_size / 1e6:.2f} MB")


def _district(folder: Path) -> District:
    folder.mkdir(exist_ok=True)
    district = District(folder, Nameless)
    district.commands.variables |= {"BUS_KAFKA__PARTITIONS": PARTITIONS, "LOGNAME": "registrar"}
    return district


def _first_day(district: District) -> dict[str, Any]:
    run = district.commands.run
    for day in (1, 2):
        path = district.folder / f"day-{day}.zip"
        run("sample", str(path), *SAMPLE, "--day", str(day))
        _spoil(path, day)
    requests = _requests(district.folder / "day-1.zip")
    with district.up() as bootstrap, Receiver(SECRET) as vendor:
        cluster = Cluster(bootstrap)
        run("schemas", "apply")
        taken = district.take(1)
        with district.service() as app:
            for request in requests:
                request["answer"] = post(app, request)
        for product in PRODUCTS:
            district.consume(product, vendor)
        _replays(district)
        _rubbish(bootstrap)
        for product in PRODUCTS:
            district.consume(product, vendor)
        cluster.keep_for_ever()
        replays = run("replay", "list")["replays"]
        records = [f"{PREFIX}{kind}" for kind in (*taken, "attendance")]
        ends = cluster.ends()
        records = sorted({name for name in records if f"{name}/0" in ends})
        return {
            "commit": _commit(),
            "schoolbus": _version(),
            "versions": json.loads((district.home / "bus.json").read_text("utf-8"))["versions"],
            "recordTopics": records,
            "ends": ends,
            "committed": cluster.committed(),
            "events": _by_topic(cluster, records),
            "taken": taken,
            "told": told(vendor),
            "quarantine": run("quarantine", "list", "--all")["faults"],
            "deadLetters": {
                product: run("deadletters", "list", product)["deadLetters"] for product in PRODUCTS
            },
            "replays": {one["id"]: one["status"] for one in replays},
            "canvasZips": [path.name for path in district.zips()],
            "set": district.set_rows(),
            "requests": requests,
        }


def _second_day(district: District) -> dict[str, Any]:
    """Return what this version does with the second day, in a copy that is deleted afterwards."""
    run = district.commands.run
    with district.up() as bootstrap, Receiver(SECRET) as vendor:
        known = len(run("quarantine", "list", "--all")["faults"])
        before = district.zips()
        records = district.take(2)
        delivered = {product: district.consume(product, vendor) for product in PRODUCTS}
        (new,) = [path for path in district.zips() if path not in before]
        return {
            "records": records,
            "faults": len(run("quarantine", "list", "--all")["faults"]) - known,
            "delivered": delivered,
            "told": told(vendor),
            "canvas": rows_in(new),
            "set": district.set_rows(),
            "ends": Cluster(bootstrap).ends(),
        }


def _spoil(path: Path, day: int) -> None:
    """Add faulty rows to an extract: three on both days, and one more on the second.

    They come first in their files, because a fault is identified by its line.
    """
    with zipfile.ZipFile(path) as archive:
        files = {name: archive.read(name).decode() for name in archive.namelist()}
    enrollments, people = files["enrollments.csv"], files["demographics.csv"]
    bad = [("rubbish-1", {"classSourcedId": "nowhere"}), ("rubbish-2", {"userSourcedId": "nobody"})]
    files["enrollments.csv"] = _before(enrollments, bad)
    worse = [("rubbish-3", {"birthDate": "yesterday"})]
    worse += [("rubbish-4", {"birthDate": "tomorrow"})] if day == 2 else []
    files["demographics.csv"] = _before(people, worse)
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, text in files.items():
            archive.writestr(name, text.replace(YEAR_END, FAR_AWAY))


def _before(text: str, wrong: list[tuple[str, dict[str, str]]]) -> str:
    """Return a file that starts with copies of its first row, each with other cells."""
    rows = csv.DictReader(io.StringIO(text, newline=""))
    names = list(rows.fieldnames or ())
    first = next(rows)
    out = io.StringIO(newline="")
    writer = csv.DictWriter(out, names)
    writer.writeheader()
    writer.writerows(first | {"sourcedId": id_} | cells for id_, cells in wrong)
    body = text.partition("\n")[2]
    return out.getvalue() + body


def _requests(extract: Path) -> list[dict[str, Any]]:
    """Return the requests for the HTTP source, each with an idempotency key."""
    with zipfile.ZipFile(extract) as archive:
        rows = csv.DictReader(io.StringIO(archive.read("users.csv").decode(), newline=""))
        pupils = [row for row in rows if row["role"] == "student"][:2]
    late = [
        {
            "studentSourcedId": row["sourcedId"],
            "schoolSourcedId": row["orgSourcedIds"].split(",")[0],
            "eventDate": "2026-11-24",
            "attendanceEventCategory": "tardy",
        }
        for row in pupils
    ]
    walk_in = {
        "sourcedId": "walk-in-1",
        "status": "active",
        "givenName": "Zoë",
        "familyName": "Quispe",
    }
    bodies = [("/v1/attendance", late[0]), ("/v1/attendance", late[1]), ("/v1/student", walk_in)]
    return [
        {"path": path, "key": f"first-day-{number}", "body": json.dumps(body)}
        for number, (path, body) in enumerate(bodies)
    ]


def _replays(district: District) -> None:
    """Run one replay to its end, and pause one in the middle.

    They deliver into the products' own folders. A replay notes its folder, and the home will lie
    elsewhere.
    """
    commands = district.commands
    commands.run("replay", "microsoft-sds", "--out", str(district.sds), "--why", "a rehearsal")
    before = len(district.zips())
    slow = ("--rate", "100", "--why", "to be resumed")
    process = commands.start("replay", "canvas", "--out", str(district.canvas), *slow)
    until(lambda: len(district.zips()) > before, "some of the replay")
    process.send_signal(signal.SIGTERM)  # it pauses after the current batch
    said, log = process.communicate(timeout=120)
    assert process.returncode == 0, said + log
    (found,) = [
        one for one in commands.run("replay", "list")["replays"] if one["product"] == "canvas"
    ]
    assert found["status"] == "paused", found
    assert 0.05 < found["share"] < 0.95, found


def _rubbish(bootstrap: str) -> None:
    """Write a message from an unknown producer that no product can receive: a dead letter."""
    producer = Producer({"bootstrap.servers": bootstrap})
    producer.produce(f"{PREFIX}student", b"not a record", b"rubbish", partition=0)
    assert producer.flush(30) == 0


def _by_topic(cluster: Cluster, topics: list[str]) -> dict[str, int]:
    found = dict.fromkeys(topics, 0)
    for message in cluster.messages(topics):
        found[message.topic] += 1
    return found


def _commit() -> str:
    folder = Path(__file__).parent
    asked = ["git", "rev-parse", "HEAD"]
    return subprocess.check_output(asked, cwd=folder, text=True).strip()


def _version() -> str:
    return version("schoolbus")


def _pack(folder: Path, archive: Path) -> None:
    """Pack the folder without names of users on the files."""

    def plain(member: tarfile.TarInfo) -> tarfile.TarInfo | None:
        inside = Path(member.name).parts
        if len(inside) > 1 and inside[0] == "home" and inside[1] in LEFT_OUT:
            return None
        if member.name.endswith(".lock"):
            return None
        member.uid = member.gid = 0
        member.uname = member.gname = ""
        return member

    with lzma.open(archive, "wb", preset=9) as raw, tarfile.open(fileobj=raw, mode="w") as packed:
        for path in sorted(folder.iterdir()):
            packed.add(path, path.name, filter=plain)


if __name__ == "__main__":
    if len(sys.argv) != 2:
        sys.exit("usage: python -m tests.upgrade.make_home OUT.tar.xz")
    main(Path(sys.argv[1]))
