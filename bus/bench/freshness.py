"""From a POST to the product's own log: attendance over HTTP to a webhook, at a steady rate.

Three parts, each a process of its own as in a district: who sends (here: `send`), the bus's own
commands (`bus produce http`, `bus consume webhook`), and the vendor (in the calling process, which
does nothing else meanwhile). All clocks are this machine's.
"""

from __future__ import annotations

import asyncio
import multiprocessing
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx2

from bus import local
from bus.demo.stage import Stage, first_line, wait_for
from bus.demo.vendor import vendor

STUDENTS = 1_000
WARM_UP = 2.0
"""Seconds of sending before measuring: the first connections, the first transactions."""


@dataclass(frozen=True, slots=True)
class Freshness:
    """How long it took, in milliseconds: until 202, and until the product had it.

    sent: how many were measured; rate: how many a second were really sent.
    """

    sent: int
    rate: float
    accepted: dict[str, float]
    delivered: dict[str, float]


def measure(folder: Path, rate: int, seconds: float) -> Freshness:
    """Measure in a folder of its own, made anew; the bus there is stopped at the end."""
    stage = Stage(folder)
    with vendor(stage.webhook_secret) as there, stage:
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
                "BUS_PRODUCERS__HTTP__RATE": str(rate * 10),
                "BUS_PRODUCERS__HTTP__BURST": str(rate * 10),
            }
        )
        url = first_line(stage.start("http", "produce", "http", "--port", "0"))["url"]
        stage.start("webhook", "consume", "webhook", "--url", there.url)
        _enroll(url, made["key"])
        wait_for(lambda: len(there.events) > STUDENTS, "the students' way to the product")
        sender = multiprocessing.get_context("spawn").Pool(1)
        with sender:
            began, sent = sender.apply(send, (url, made["key"], rate, seconds + WARM_UP))
        wait_for(lambda: sent.keys() <= there.events.keys(), "the last events' way")
        arrived = dict(there.events)
    measured = {event: times for event, times in sent.items() if times[0] >= began + WARM_UP}
    first = min(at for at, _ in measured.values())
    last = max(at for at, _ in measured.values())
    return Freshness(
        sent=len(measured),
        rate=round((len(measured) - 1) / (last - first), 1),
        accepted=_figures([done - at for at, done in measured.values()]),
        delivered=_figures([arrived[event] - at for event, (at, _) in measured.items()]),
    )


def send(url: str, key: str, rate: int, seconds: float) -> tuple[float, dict[str, Any]]:
    """Send at this rate, whatever the answers take; when it began, and for each event's id when it
    was sent and when 202 came (`time.time`)."""
    return asyncio.run(_send(url, key, rate, seconds))


async def _send(url: str, key: str, rate: int, seconds: float) -> tuple[float, dict[str, Any]]:
    sent: dict[str, Any] = {}
    limits = httpx2.Limits(max_connections=200, max_keepalive_connections=200)
    async with httpx2.AsyncClient(
        base_url=url, headers={"X-API-Key": key}, limits=limits, trust_env=False, timeout=60
    ) as app:

        async def one(number: int) -> None:
            at = time.time()
            answer = await app.post("/v1/attendance", json=_note(number))
            answer.raise_for_status()
            sent[answer.json()["events"][0]["id"]] = (at, time.time())

        began = time.time()
        tasks = []
        for number in range(round(rate * seconds)):
            await asyncio.sleep(max(0.0, began + number / rate - time.time()))
            tasks.append(asyncio.create_task(one(number)))
        await asyncio.gather(*tasks)
    return began, sent


def _enroll(url: str, key: str) -> None:
    """A school and its students, so that attendance has something to refer to."""
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


def _figures(seconds: list[float]) -> dict[str, float]:
    ordered = sorted(seconds)
    at = {"p50": 0.50, "p99": 0.99, "worst": 1.0}
    last = len(ordered) - 1
    return {name: round(ordered[round(share * last)] * 1000, 1) for name, share in at.items()}
