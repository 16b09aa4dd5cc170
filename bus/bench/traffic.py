"""Attendance on its way from a SIS to a vendor, each part a process of its own as in a district.

Who sends (`_send`), the bus's own commands (`bus produce http`, `bus consume webhook`) on a bus of
their own, and the vendor (`_receive`). Sender and vendor stand for other machines; what they know
they keep in files of the folder, `sent.csv` and `received.csv`, not in memory. All clocks are this
machine's.
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
SINGLY = 500
"""Up to so many changes a second each is a POST of its own."""
CLASS = 20
"""Beyond, so many are an array in one POST, as when a teacher calls the roll."""
CONNECTIONS = 200


def at_once(rate: int) -> int:
    """How many changes are in one POST at this rate."""
    return 1 if rate <= SINGLY else CLASS


@dataclass(frozen=True, slots=True)
class SentChange:
    """A change that was sent: when it was due, when 202 came (`time.time`)."""

    due: float
    accepted: float


@dataclass(slots=True)
class Traffic:
    """A bus in use. `usage` looks at its processes, known by their names."""

    stage: Stage
    folder: Path
    url: str
    key: str
    usage: Usage

    def send(self, rate: int, seconds: float, look_every: float = 1.0) -> None:
        """Send at this rate, whatever the answers take, and come back when all are answered.

        look_every: how often, in seconds, the processes are looked at meanwhile.
        Raises `Stop` when the service takes no more.
        """
        context = multiprocessing.get_context("spawn")
        here, there = context.Pipe()
        sender = context.Process(
            target=_send, args=(there, self.url, self.key, rate, seconds, self._log("sent"))
        )
        sender.start()
        there.close()
        try:
            _hear(here)
            self.usage.add("sender", sender.pid or 0)
            self.usage.look()
            here.send("go")
            while not here.poll(look_every):
                self.usage.look()
            self.usage.look()
            _hear(here)
        finally:
            self.usage.drop("sender")
            here.close()
            sender.join(20)

    def sent(self) -> dict[str, SentChange]:
        """All that was sent by now, by event id."""
        return {name: SentChange(float(due), float(at)) for name, due, at in self._rows("sent")}

    def received(self) -> dict[str, list[float]]:
        """When each event came to the vendor, by its id: once, if all is well."""
        found: dict[str, list[float]] = {}
        for name, at in self._rows("received"):
            found.setdefault(name, []).append(float(at))
        return found

    def wait_for_all(self) -> None:
        """Come back when the vendor has as many events as were sent."""
        number = _lines(self._log("sent"))
        log = self._log("received")
        wait_for(lambda: _lines(log) >= number, "the last events' way", 0.25)
        self.usage.look()

    def _log(self, name: str) -> Path:
        return self.folder / f"{name}.csv"

    def _rows(self, name: str) -> Iterator[list[str]]:
        with self._log(name).open(newline="") as lines:
            yield from csv.reader(lines)


def _hear(pipe: Any) -> None:
    """The sender's next word: nothing, or what went wrong."""
    try:
        failure = pipe.recv()
    except EOFError:
        failure = "it ended before its time"
    if failure:
        raise Stop(f"the sender failed: {failure}")


@contextmanager
def traffic(folder: Path, history: int = 0) -> Iterator[Traffic]:
    """A bus in a folder of its own, made anew, with a school on it; stopped at the end.

    history: a district of so many students is in the topics before; the vendor is not told of them.
    """
    stage = Stage(folder)
    with stage, ExitStack() as ends:
        stage.bus_down_at_the_end()
        local.up(stage.folder)
        stage.run("schemas", "apply")
        made = stage.run("produce", "http", "--new-key", "bench")
        client = "BUS_PRODUCERS__HTTP__CLIENTS__BENCH__"
        stage.set(
            **{
                "BUS_PRODUCTS__WEBHOOK__SECRET": stage.webhook_secret,
                f"{client}KEY_SHA256": made["toml"].split('key_sha256 = "')[1].split('"')[0],
                f"{client}SCOPES": "org,student,attendance",
                # What one client may send is not what is measured here.
                "BUS_PRODUCERS__HTTP__RATE": str(2 * SINGLY),
                **({"BUS_PRODUCTS__WEBHOOK__KINDS": "org,attendance"} if history else {}),
            }
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
        _enroll(url, made["key"])
        told = 0 if history else STUDENTS
        wait_for(lambda: _lines(received) > told, "the students' way to the product")
        if history:
            extract = str(stage.folder / "extracts" / "history")
            stage.run("sample", extract, "--students", str(history), patience=3600)
            stage.run("produce", "oneroster-csv", extract, patience=3600)
            wait_for(lambda: _caught_up(stage), "the history's way to the product", 1.0)
        received.write_text("")  # from here on it is of attendance; the vendor appends
        (stage.folder / "sent.csv").touch()
        yield Traffic(stage, stage.folder, url, made["key"], usage)


@contextmanager
def vendor(secret: str, log: Path) -> Iterator[tuple[int, str]]:
    """The vendor's process: its id and its URL."""
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
    """Send, and say at the end what went wrong, or nothing."""
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
        start = round(began)  # so that no note is about what an earlier one was about
        async with asyncio.TaskGroup() as group:
            for number in range(0, round(rate * seconds), each):
                due = began + number / rate
                await asyncio.sleep(max(0.0, due - time.time()))
                group.create_task(post(app, start * STUDENTS + number, due))


def _enroll(url: str, key: str) -> None:
    """A school and its students, so that attendance has something to refer to."""
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
