"""Sends attendance records from an SIS to a vendor, each part in a separate process.

The parts are the sender (`_send`), the commands `bus produce http` and `bus consume webhook` on a
separate bus, and the vendor (`_receive`). The sender and the vendor represent other machines. They
keep their data in the files `sent.csv` and `received.csv` of the folder, not in memory. All clocks
are the clock of this machine.
"""

from __future__ import annotations

import asyncio
import csv
import multiprocessing
import time
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import IO, Any

from bus import local
from bus.bench.usage import Usage
from bus.demo.stage import Stage, first_line, wait_for
from bus.errors import Stop
from bus.local.event_loop import new_event_loop

STUDENTS = 1_000
"""How many students there are."""
SINGLY = 500
"""Up to this many changes per second, each change is a separate POST."""
CLASS = 20
"""Above that rate, this many changes are an array in one POST, as when a teacher takes attendance.
"""
CONNECTIONS = 200
"""Maximum number of connections of the sender."""


def at_once(rate: int) -> int:
    """Return how many changes are in one POST at this rate."""
    return 1 if rate <= SINGLY else CLASS


@dataclass(frozen=True, slots=True)
class SentChange:
    """A change that was sent: when it was due, and when 202 arrived (`time.time`)."""

    due: float
    accepted: float


@dataclass(slots=True)
class Traffic:
    """A bus in use. `usage` samples its processes, which have names."""

    stage: Stage
    folder: Path
    url: str
    key: str
    usage: Usage

    def send(self, rate: int, seconds: float, look_every: float = 1.0) -> None:
        """Send at this rate, however long the answers take. Return when all are answered.

        look_every: seconds between two samples of the processes.

        Raises `Stop` when the sender fails.
        """
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        sender = context.Process(
            target=_send, args=(there, self.url, self.key, rate, seconds, self._log("sent"))
        )
        sender.start()
        there.close()
        try:
            _receive_report(here)
            self.usage.add("sender", sender.pid or 0)
            self.usage.look()
            here.send("go")
            while not here.poll(look_every):
                self.usage.look()
            self.usage.look()
            _receive_report(here)
        finally:
            self.usage.drop("sender")
            here.close()
            sender.join(20)

    def send_new(self, rate: int, seconds: float) -> dict[str, SentChange]:
        """Send as `send` does. Return the changes that it sent, by event id."""
        before = self.sent().keys()
        self.send(rate, seconds)
        return {name: one for name, one in self.sent().items() if name not in before}

    def sent(self) -> dict[str, SentChange]:
        """Return all changes that have been sent, by event id."""
        return {name: SentChange(float(due), float(at)) for name, due, at in self._rows("sent")}

    def received(self) -> dict[str, list[float]]:
        """Return when each event arrived at the vendor, by event id.

        Each list has one entry if all is well.
        """
        found: dict[str, list[float]] = {}
        for name, at in self._rows("received"):
            found.setdefault(name, []).append(float(at))
        return found

    def wait_for_all(self) -> None:
        """Return when the vendor has as many events as were sent."""
        number = _lines(self._log("sent"))
        log = self._log("received")
        wait_for(lambda: _lines(log) >= number, "the delivery of the last events", 0.25)
        self.usage.look()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _rows(self, name: str) -> Iterator[list[str]]:
        if (log := self._log(name)).exists():
            with log.open(newline="") as lines:
                yield from csv.reader(lines)


def _receive_report(pipe: Any) -> None:
    """Receive the next message of the sender. Raise `Stop` if it reports a failure."""
    try:
        failure = pipe.recv()
    except EOFError:
        failure = "it ended too early"
    if failure:
        raise Stop(f"the sender failed: {failure}")


@contextmanager
def traffic(folder: Path, history: int = 0) -> Iterator[Traffic]:
    """Run a bus with a school in a folder that is rebuilt. Stop it at the end.

    history: the number of students of a district that is published first. The vendor does not
             receive its records.
    """
    stage = Stage(folder)
    with stage, ExitStack() as ends:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        stage.run("schemas", "apply")
        key = new_client(stage)
        stage.set(
            BUS_PRODUCTS__WEBHOOK__SECRET=stage.webhook_secret,
            **({"BUS_PRODUCTS__WEBHOOK__KINDS": "org,attendance"} if history else {}),
        )
        received = stage.folder / "received.csv"
        receiver, address = ends.enter_context(vendor(stage.webhook_secret, received))
        service = stage.start("http", "produce", "http", "--port", "0")
        url = first_line(service)["url"]
        consumer = stage.start("webhook", "consume", "webhook", "--url", address)
        running = local.status(stage.folder).running
        usage = Usage(
            {
                "HTTP source": service.pid,
                "Kafka": running["kafka"].pid,
                "registry": running["registry"].pid,
                "consumer": consumer.pid,
                "vendor": receiver,
            }
        )
        enroll(url, key)
        expected = 0 if history else STUDENTS
        wait_for(lambda: _lines(received) > expected, "the delivery of the students")
        if history:
            extract = str(stage.folder / "extracts" / "history")
            stage.run("sample", extract, "--students", str(history), patience=3600)
            stage.run("produce", "oneroster-csv", extract, patience=3600)
            wait_for(lambda: _caught_up(stage), "the delivery of the history", 1.0)
        received.write_text("")  # from now on only attendance; the vendor appends
        yield Traffic(stage, stage.folder, url, key, usage)


def new_client(stage: Stage) -> str:
    """Give the SIS a key for `bus produce http`, which must not limit its rate. Return the key."""
    made = stage.run("produce", "http", "--new-key", "bench")
    client = "BUS_PRODUCERS__HTTP__CLIENTS__BENCH__"
    stage.set(
        **{
            f"{client}KEY_SHA256": made["sha256"],
            f"{client}SCOPES": "org,student,attendance",
            "BUS_PRODUCERS__HTTP__RATE": str(2 * SINGLY),
        }
    )
    return str(made["key"])


@contextmanager
def vendor(secret: str, log: Path) -> Iterator[tuple[int, str]]:
    """Run the vendor in a process. Yield its process id and its URL."""
    context = multiprocessing.get_context("spawn")
    here, there = context.Pipe()
    process = context.Process(target=_receive, args=(there, secret, log))
    process.start()
    there.close()
    try:
        yield process.pid or 0, here.recv()
    finally:
        here.close()
        process.join(20)


def _receive(pipe: Any, secret: str, log: Path) -> None:
    from bus.demo.vendor import listening

    with log.open("a", buffering=1) as lines:

        def keep(name: str, _: bytes) -> None:
            lines.write(f"{name},{time.time()}\n")

        with listening(secret, keep) as url:
            pipe.send(url)
            pipe.poll(None)  # until the other end is closed


def _send(pipe: Any, url: str, key: str, rate: int, seconds: float, log: Path) -> None:
    """Send, and finally report what failed, or an empty text."""
    try:
        with log.open("a") as lines, asyncio.Runner(loop_factory=new_event_loop) as runner:
            runner.run(_sending(pipe, url, key, rate, seconds, lines))
        pipe.send("")
    except BaseExceptionGroup as several:
        pipe.send(repr(several.exceptions[0]))
    except Exception as error:
        pipe.send(repr(error))


async def _sending(
    pipe: Any, url: str, key: str, rate: int, seconds: float, lines: IO[str]
) -> None:
    import aiohttp

    each = at_once(rate)

    async def post(app: aiohttp.ClientSession, first: int, due: float) -> None:
        notes = [_note(first + i) for i in range(each)]
        while True:
            async with app.post("/v1/attendance", json=notes) as answer:
                if answer.status != 429:
                    answer.raise_for_status()
                    events = (await answer.json())["events"]
                    break
            await asyncio.sleep(float(answer.headers["Retry-After"]))
        at = time.time()
        lines.writelines(f"{event['id']},{due},{at}\n" for event in events)

    async with aiohttp.ClientSession(
        url,
        headers={"X-API-Key": key},
        connector=aiohttp.TCPConnector(limit=CONNECTIONS),
    ) as app:
        pipe.send("")  # ready
        pipe.recv()
        began = time.time()
        start = round(began)  # so that no record is a correction of an earlier one
        async with asyncio.TaskGroup() as group:
            for number in range(0, round(rate * seconds), each):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.time()))
                group.create_task(post(app, start * STUDENTS + number, due))


def enroll(url: str, key: str) -> None:
    """Publish a school and its students, so that attendance can refer to them."""
    import httpx2

    school = {"sourcedId": "school", "status": "active", "name": "Bench", "type": "school"}
    students = [
        {
            "sourcedId": f"student-{number}",
            "status": "active",
            "givenName": "Given",
            "familyName": "Family",
        }
        for number in range(STUDENTS)
    ]
    with httpx2.Client(base_url=url, headers={"X-API-Key": key}, trust_env=False) as app:
        app.post("/v1/org", json=school).raise_for_status()
        app.post("/v1/student", json=students).raise_for_status()


def _note(number: int) -> dict[str, Any]:
    return {
        "studentSourcedId": f"student-{number % STUDENTS}",
        "schoolSourcedId": "school",
        "eventDate": "2026-11-24",
        "classPeriod": str(number // STUDENTS),
        "attendanceEventCategory": "inAttendance",
    }


def _caught_up(stage: Stage) -> bool:
    return all(group["lag"] == 0 for group in stage.run("status")["groups"].values())


def _lines(path: Path) -> int:
    return path.read_bytes().count(b"\n") if path.exists() else 0
