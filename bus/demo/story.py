"""The scenes of the demo."""

from __future__ import annotations

import csv
import hashlib
import io
import itertools
import json
import os
import secrets
import shlex
import shutil
import statistics
import subprocess
import sys
import time
import zipfile
from collections import Counter
from collections.abc import Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import httpx2
from confluent_kafka import Producer
from rich.console import Console
from rich.markup import escape
from rich.table import Table

from bus import local
from bus.demo import math_app, product_processes
from bus.demo.sample import District
from bus.demo.stage import Stage, first_line, wait_for
from bus.demo.vendor import Vendor, vendor
from bus.errors import Stop
from bus.kafka import topics
from bus.kafka.client import client_settings
from bus.local.machine import free_port
from bus.registry import subjects
from bus.standard.kinds import schema_directory

RECORDS = 40
"""The number of attendance records that a school app sends."""
DURING_REVOCATION, LATER = "2026-08-19", "2026-08-20"
"""The days of the attendance records: those sent during a revocation, and those sent after it."""

CHANGES = ("created", "updated", "withdrawn", "unchanged", "quarantined")


def play(folder: Path, students: int, console: Console, *, keep: bool = False) -> dict[str, Any]:
    """Run the demo in a separate folder and return its results.

    students: how many students the made-up district has.
    keep:     leave Kafka and the registry running at the end.

    Raises `Stop` or `RetryLater` if a scene does not end as it should.
    """
    return _Story(folder, students, console, keep).run()


class _Story:
    def __init__(self, folder: Path, students: int, console: Console, keep: bool) -> None:
        self._stage = Stage(folder)
        self._keep = keep
        self._console = console
        self._district = District(seed=7, students=students, change=0.05)
        self._out = self._stage.folder / "out"
        self._scenes = 0
        self._zips: set[str] = set()
        self._results: dict[str, Any] = {}

    def run(self) -> dict[str, Any]:
        began = time.monotonic()
        self._console.print(
            "[bold]Schoolbus[/] delivers changes in a student information system (SIS) to every "
            f"product as they happen.\nThe {self._district.students:,} students are made up. "
            "Everything else is real: Kafka, the schema registry, the commands."
        )
        with vendor(self._stage.webhook_secret) as receiver, self._stage:
            self._start(receiver)
            self._day(1, receiver)
            self._day(2, receiver)
            self._live(receiver)
            self._agreement(receiver)
            self._faulty_producer()
            with self._scene("Shutdown: each process gets SIGTERM, finishes its batch, commits"):
                pass
        seconds = time.monotonic() - began
        self._next(seconds)
        return {"folder": str(self._stage.folder), "seconds": round(seconds, 1), **self._results}

    # ---- scenes --------------------------------------------------------------------------------

    def _start(self, receiver: Vendor) -> None:
        stage = self._stage
        with self._scene("The bus starts"):
            # In this process, so that the first download shows its progress.
            if not self._keep:
                stage.bus_down_at_the_end()
            found = local.up(stage.folder, say=lambda line: self._say(escape(line)))
            applied = stage.run("schemas", "apply")["schemas"]
            self._say(f"Kafka at {found.bootstrap}, the schema registry at {found.registry}")
            self._say(f"{len(applied)} schemas of the shared standard registered (FULL_TRANSITIVE)")
        with self._scene("Three products and an attendance service start"):
            made = stage.run("produce", "http", "--new-key", "attendance-app")
            self._key = made["key"]
            self._parents_key = secrets.token_urlsafe(32)
            clients = "BUS_PRODUCERS__HTTP__CLIENTS"
            stage.set(
                **{
                    "BUS_PRODUCTS__WEBHOOK__SECRET": stage.webhook_secret,
                    f"{clients}__ATTENDANCE-APP__KEY_SHA256": made["sha256"],
                    f"{clients}__PARENT-PORTAL__KEY_SHA256": hashlib.sha256(
                        self._parents_key.encode()
                    ).hexdigest(),
                    f"{clients}__PARENT-PORTAL__SCOPES": "optOut",
                }
            )
            ready: dict[str, subprocess.Popen[str]] = {}
            used_ports: list[int] = []
            for name in product_processes.PRODUCTS:
                port = free_port(used_ports)
                used_ports.append(port)
                where = ["--url", receiver.url] if name == "webhook" else ["--out", f"out/{name}"]
                url = f"http://127.0.0.1:{port}/readyz"
                ready[url] = stage.start(name, "consume", name, *where, "--http-port", str(port))
            service = stage.start("http", "produce", "http", "--port", "0")
            self._url = first_line(service)["url"]
            for url, process in ready.items():
                wait_for(partial(_answers, url, process), "the start of the products")
            self._say("canvas gets zips, microsoft-sds whole CSV sets, webhook signed events")

    def _day(self, day: int, receiver: Vendor) -> None:
        stage = self._stage
        extract = self._district.write(stage.folder / "extracts" / f"day-{day}.zip", day)
        if day > 1:
            _add_invalid_row(extract)
        title = {
            1: "Day one: the SIS exports a complete extract",
            2: "Day two: a complete extract with one day's changes and an invalid row",
        }
        with self._scene(title[day]):
            before = Counter(receiver.types)
            began = time.time()
            came = stage.run("produce", "oneroster-csv", str(extract))
            self._say(f"read, compared and published in {time.time() - began:.1f} s:")
            self._console.print(_changes(came["records"]))
            if day > 1:
                self._quarantined()
            took = product_processes.caught_up(stage.settings, self._out, began)
            got = {
                "canvas": product_processes.canvas(self._out / "canvas", self._zips),
                "microsoft-sds": product_processes.sds(self._out / "microsoft-sds"),
                "webhook": product_processes.webhook(receiver, before),
            }
            self._say("what each product received, and how long after the extract arrived:")
            for name, what in got.items():
                self._say(f"  [bold]{name:13}[/] {took[name]:5.1f} s  {what}")
            self._results[f"day{day}"] = {
                "records": came["records"],
                "products": {n: {"seconds": round(took[n], 2), "got": got[n]} for n in got},
            }

    def _quarantined(self) -> None:
        for fault in self._stage.run("quarantine", "list")["faults"]:
            if fault["fatal"]:
                where = f"{fault['file']}, line {fault['line']}, {fault['column']}"
                self._say(f"[yellow]quarantined[/]: {where} ({fault['value_class']}):")
                self._say(f"  {escape(fault['reason'])}")

    def _live(self, receiver: Vendor) -> None:
        with self._scene("First period: a classroom app records attendance over HTTP"):
            with self._http(self._key) as app:
                answers, spans = [], []
                for number in range(RECORDS):
                    began = time.time()
                    answer = app.post("/v1/attendance", json=self._attendance_record(number))
                    answers.append(answer.status_code)
                    event = answer.json()["events"][0]["id"]
                    wait_for(
                        lambda event=event: event in receiver.events, "attendance", every=0.002
                    )
                    spans.append(receiver.events[event] - began)
                self._say(
                    f"{answers.count(202)} records accepted (202 once in Kafka); from the POST to "
                    f"the vendor's log: median [bold]{statistics.median(spans) * 1000:.0f} ms[/], "
                    f"longest {max(spans) * 1000:.0f} ms"
                )
                wrong = app.post(
                    "/v1/attendance",
                    json=self._attendance_record(0) | {"attendanceEventCategory": "asleep"},
                )
                problem = wrong.json()["errors"][0]
                self._say(
                    f"a record with a wrong category: {wrong.status_code}, "
                    f"{escape(problem.get('pointer', ''))} {escape(problem['detail'])}"
                )
            nobody = httpx2.post(
                f"{self._url}/v1/attendance", json=self._attendance_record(0), trust_env=False
            ).status_code
            self._say(f"a record without a key: {nobody}")
            self._results["attendance"] = {
                "taken": answers.count(202),
                "refused": [wrong.status_code, nobody],
                "medianMs": round(statistics.median(spans) * 1000, 1),
            }

    def _attendance_record(self, number: int) -> dict[str, Any]:
        return {
            "studentSourcedId": f"student-{number:07d}",
            "schoolSourcedId": "school-0000",
            "eventDate": "2026-08-18",
            "attendanceEventCategory": "tardy" if number % 5 else "unexcusedAbsence",
        }

    def _agreement(self, receiver: Vendor) -> None:
        stage, app = self._stage, math_app.MathApp()
        students = self._district.students_of(0, day=2)
        with self._scene("A vendor under an agreement: a math app, for the students of one school"):
            math_app.write_agreement(stage.folder / "agreements", "school-0000")
            stage.start("vendors", "vendors", "run")
            stage.run("vendors", "apply")
            program = math_app.write_program(stage.folder / "vendor" / "reader.py")
            app.follow(stage.start_program("math-app", program))
            wait_for(lambda: len(app.students()) >= len(students), "the vendor's students", 0.02)
            wait_for(app.settled, "the vendor's first read")
            received = app.students()
            id_, record = next(iter(received.items()))
            about = {name: value for name, value in record.items() if value}
            fields = sorted(about.keys() - {"sourcedId", "status"})
            self._say(f"its program received {len(received):,} students. One of them:")
            self._say(f"  {record['givenName']} {record['familyName']}, with the id {id_}")
            self._say(f"  Only this app has this id. The other fields: {', '.join(fields)}")
            deleted = self._opt_out(students[0], app)
            self._say(
                "a parent opts a student out: the deletion reached the app "
                f"[bold]{deleted:.0f} ms[/] later"
            )
            revoked, later = self._revoke(students[1], app, receiver)
            self._say(
                f"the district revokes the agreement: [bold]{revoked:.1f} s[/] after the command "
                "was given, the last event reached the app"
            )
            late = len(app.notes(LATER))
            self._say(
                f"{later} attendance records after that: {late} reached the app, all reached the "
                "webhook"
            )
            self._say("  A secure bus (`bus up --secure`) also closes the app's access to Kafka.")
            asked = stage.run(
                *("vendors", "disclosures", "--student", students[0]),
                *("--why", "a parent asks which vendors had data"),
            )["disclosures"]
            for one in asked:
                self._say("the record of disclosures, about the student who was opted out:")
                self._say(
                    f"  {escape(one['vendor'])} for {one['purpose']}, from {one['from'][11:19]} to "
                    f"{(one['to'] or 'now')[11:19]} UTC:"
                )
                self._say(f"  {', '.join(one['categories'])}")
            self._results["agreement"] = {
                "students": len(received),
                "optOutMs": round(deleted, 1),
                "revokedSeconds": round(revoked, 2),
                "notesAfter": later,
                "notesAfterReceived": late,
                "disclosures": len(asked),
            }

    def _opt_out(self, student: str, app: math_app.MathApp) -> float:
        """Opt a student out over HTTP; return how many ms later the vendor got the deletion."""
        with self._http(self._parents_key) as portal:
            began = time.time()
            decided = {
                "sourcedId": "optout-1",
                "status": "active",
                "studentSourcedId": student,
                "scope": "vendor",
                "vendor": math_app.COMPANY,
                "decidedBy": "parent",
            }
            answer = portal.post("/v1/optOut", json=decided)
            if answer.status_code != 202:
                raise Stop(f"the opt-out was refused: {answer.text}")
            wait_for(app.deleted_student, "the deletion at the vendor", 0.002)
        deletion = app.deleted_student()
        return (deletion.at - began) * 1000 if deletion else 0.0

    def _revoke(self, student: str, app: math_app.MathApp, receiver: Vendor) -> tuple[float, int]:
        """Revoke the agreement while attendance records are posted.

        Returns two numbers: the seconds from the start of the command to the vendor's last event,
        and the records that were posted after the command had ended.
        """
        stage, later = self._stage, 10

        periods = itertools.count(1)  # a record with the same values would be no change

        def post(day: str) -> str:
            about = {"studentSourcedId": student, "eventDate": day}
            record = self._attendance_record(0) | about | {"classPeriod": str(next(periods))}
            event: str = school.post("/v1/attendance", json=record).json()["events"][0]["id"]
            return event

        with self._http(self._key) as school, ThreadPoolExecutor(1) as pool:
            before = len(app.arrivals)
            post(DURING_REVOCATION)
            wait_for(lambda: len(app.arrivals) > before, "a record at the vendor", 0.01)
            began = time.time()
            command = ("vendors", "revoke", math_app.NAME, "--why", "the demo ends it", "--yes")
            revoking = pool.submit(stage.run, *command)
            while not revoking.done():
                post(DURING_REVOCATION)
                time.sleep(0.01)
            revoking.result()
            posted = [post(LATER) for _ in range(later)]
            wait_for(lambda: all(one in receiver.events for one in posted), "attendance", 0.01)
        wait_for(partial(app.settled, 1.0), "the end of the vendor's events")
        return max(0.0, app.arrivals[-1].at - began), later

    def _http(self, key: str) -> httpx2.Client:
        return httpx2.Client(base_url=self._url, headers={"X-API-Key": key}, trust_env=False)

    def _faulty_producer(self) -> None:
        stage = self._stage
        with self._scene(
            "A faulty producer: a schema that breaks readers, then bytes that are not Avro"
        ):
            altered = stage.folder / "rogue"
            shutil.copytree(schema_directory(), altered)
            schema = json.loads((altered / "student.avsc").read_text("utf-8"))
            for field in schema["fields"]:
                if field["name"] == "familyName":
                    field["type"] = "int"
            (altered / "student.avsc").write_text(json.dumps(schema), "utf-8")
            checked = stage.run("schemas", "check", "--schemas", str(altered), fails=True)
            student = next(one for one in checked["schemas"] if one["kind"] == "student")
            self._say(f"`bus schemas check`: {escape(student['reasons'][0])}")
            status = self._registered(schema)
            self._say(f"registered without `bus schemas`: the registry refuses it ({status})")
            self._send_invalid_message()
            wait_for(
                lambda: all(map(self._dead_letters, product_processes.PRODUCTS)),
                "the dead letters",
                0.5,
            )
            dead_letter = self._dead_letters("canvas")[0]
            self._say(
                f"an invalid message at {dead_letter['place']}: each consumer moved it to its dead "
                "letters and continued:"
            )
            self._say(f"  canvas: {escape(dead_letter['reason'])}")
            self._results["rogue"] = {
                "schema": status,
                "deadLetters": {
                    name: len(self._dead_letters(name)) for name in product_processes.PRODUCTS
                },
            }

    def _registered(self, schema: Mapping[str, Any]) -> str:
        """Register a schema at the registry, without `bus schemas`; return the HTTP status."""
        url = local.endpoints(self._stage.folder).registry
        subject = subjects.subject(self._stage.settings, "student")
        answer = httpx2.post(
            f"{url}/subjects/{subject}/versions",
            json={"schema": json.dumps(schema), "schemaType": "AVRO"},
            trust_env=False,
        )
        return f"HTTP {answer.status_code}"

    def _send_invalid_message(self) -> None:
        producer = Producer(client_settings(self._stage.settings))
        topic = topics.topic(self._stage.settings, "student")
        producer.produce(topic, b"<student><name>not Avro</name></student>", b"rogue")
        producer.flush(10)

    def _dead_letters(self, product: str) -> list[dict[str, Any]]:
        found: list[dict[str, Any]] = self._stage.run("deadletters", "list", product)["deadLetters"]
        return found

    def _next(self, seconds: float) -> None:
        folder = escape(str(self._stage.folder))
        lines = [
            f"\n[bold]Done in {seconds:.0f} s.[/] Everything is in {folder}:",
            "  extracts/            the extracts of the SIS",
            "  out/canvas/          zips for Canvas's SIS import, in order",
            "  out/microsoft-sds/   the set for School Data Sync",
            "  agreements/, vendor/ the math app's agreement, and its program",
            "  log/                 what each process logged; no personal data",
            "\n[bold]Try next[/]",
            *(
                f"  {escape(line)}"
                for line in next_commands(
                    self._stage.folder, self._district.students, os.environ, up=self._keep
                )
            ),
        ]
        self._console.print("\n".join(lines))

    # ---- output --------------------------------------------------------------------------------

    @contextmanager
    def _scene(self, title: str) -> Iterator[None]:
        self._scenes += 1
        self._console.print(f"\n[bold cyan]{self._scenes}. {title}[/]")
        yield

    def _say(self, line: str) -> None:
        self._console.print(f"   {line}")


def next_commands(
    folder: Path, students: int, environment: Mapping[str, str], *, up: bool
) -> list[str]:
    """Return the commands to try next, in a shell with this environment.

    up: whether the demo's bus is still running.

    Variables override the demo's bus.toml, so the commands unset those that are set.
    """
    ours = [name for name in environment if name.upper().startswith("BUS_")]
    others = sorted(set(ours) - {"BUS_HOME", "BUS_CACHE_DIR", "BUS_MAVEN_REPOSITORY"})
    bus = shlex.quote(_command())
    if "BUS_HOME" in ours:
        bus = f"BUS_HOME=. {bus}"
    day = f"--students {students} --seed 7 --change 0.05 --day 3"
    return [
        f"cd {shlex.quote(str(folder))}",
        *([f"unset {' '.join(others)}"] if others else []),
        *([] if up else [f"{bus} up"]),
        f"{bus} status",
        f"{bus} deadletters list canvas",
        f"{bus} quarantine list",
        f"{bus} sample day-3.zip {day}",
        f"{bus} produce oneroster-csv day-3.zip",
        f"{bus} consume canvas --out out/canvas --until-caught-up",
        f"{bus} down",
    ]


def _changes(records: Mapping[str, Mapping[str, int]]) -> Table:
    """Return the table of kinds and changes; zeros are dots, so that changes stand out."""
    table = Table(box=None, padding=(0, 1), pad_edge=False)
    table.add_column("      record", no_wrap=True, min_width=22)
    for change in CHANGES:
        table.add_column(change, justify="right", no_wrap=True)
    for kind, counts in records.items():
        if any(counts.values()):
            cells = (f"{counts[change]:,}" if counts[change] else "·" for change in CHANGES)
            table.add_row(f"      {kind}", *cells)
    return table


def _add_invalid_row(extract: Path) -> None:
    """Add an invalid row to enrollments.csv: an enrollment in a class that does not exist."""
    with zipfile.ZipFile(extract) as archive:
        files = {name: archive.read(name) for name in archive.namelist()}
    text = files["enrollments.csv"].decode("utf-8")
    header = next(csv.reader(io.StringIO(text)))
    invalid = {
        "sourcedId": "enrollment-rubbish",
        "status": "active",
        "classSourcedId": "class-of-rubbish",
        "schoolSourcedId": "school-0000",
        "userSourcedId": "student-0000001",
        "role": "student",
        "beginDate": "the day before yesterday",
    }
    line = io.StringIO()
    csv.writer(line).writerow([invalid.get(name, "") for name in header])
    files["enrollments.csv"] = (text + line.getvalue()).encode("utf-8")
    with zipfile.ZipFile(extract, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in files.items():
            archive.writestr(name, content)


def _answers(url: str, process: subprocess.Popen[str]) -> bool:
    if process.poll() is not None:
        raise Stop(
            f"a product exited with status {process.returncode} at its start; see the log folder"
        )
    try:
        return httpx2.get(url, trust_env=False, timeout=2).status_code == 200
    except httpx2.HTTPError:
        return False


def _command() -> str:
    """Return how the user calls `bus`: by name if the shell finds this installation."""
    ours = Path(sys.executable).with_name("bus")
    found = shutil.which("bus")
    return "bus" if found and Path(found).resolve() == ours.resolve() else str(ours)
