"""The commands, folders and vendor of the district whose home is kept for the upgrade test."""

from __future__ import annotations

import base64
import csv
import io
import json
import zipfile
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx2

from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.integration.commands import Commands
from tests.webhook_receiver import Received, Receiver

SECRET = "whsec_" + base64.b64encode(b"a secret of made-up events alone").decode()
PRODUCTS = ("canvas", "microsoft-sds", "webhook")
KEY = "a key of made-up requests alone"
CLIENT = "FRONTOFFICE"
"""The HTTP client. Idempotency keys belong to a client, so both days must use the same one."""

Counts = dict[str, dict[str, int]]


class District:
    """A folder with a home, the extracts, and what the products received.

    home/                      BUS_HOME
    day-1.zip, day-2.zip       the extracts
    out/canvas, out/sds        the products' folders with their journals
    """

    def __init__(self, folder: Path, kind: type[Commands] = Commands) -> None:
        self.folder = folder
        self.home = folder / "home"
        # explicit settings, so that no bus.toml or variable leads the test to a real cluster
        settings = Settings(home=self.home, kafka=KafkaSettings(), registry=RegistrySettings())
        self.commands = kind(settings, folder)
        self.commands.variables = {
            "BUS_PRODUCTS__WEBHOOK__SECRET": SECRET,
            # The idempotency keys of the fixture are as old as the fixture.
            "BUS_PRODUCERS__HTTP__IDEMPOTENCY_HOURS": "1000000",
            f"BUS_PRODUCERS__HTTP__CLIENTS__{CLIENT}__KEY_SHA256": sha256(KEY.encode()).hexdigest(),
            f"BUS_PRODUCERS__HTTP__CLIENTS__{CLIENT}__SCOPES": "student,attendance",
        }

    @property
    def canvas(self) -> Path:
        return self.folder / "out" / "canvas"

    @property
    def sds(self) -> Path:
        return self.folder / "out" / "sds"

    @contextmanager
    def up(self) -> Iterator[str]:
        """Run the bus while the block runs; yield Kafka's address."""
        try:
            yield self.commands.run("up")["bootstrap"]
        finally:
            self.commands.run("down")

    def take(self, day: int, *options: str) -> Counts:
        """Publish a day's extract; return how many records were created, updated and so on."""
        path = str(self.folder / f"day-{day}.zip")
        found: Counts = self.commands.run("produce", "oneroster-csv", path, *options)["records"]
        return found

    def consume(self, product: str, vendor: Receiver) -> dict[str, int]:
        """Let a product catch up; return how many records it received, by kind."""
        found = self.commands.run(
            "consume", product, *self.place(product, vendor), "--until-caught-up"
        )
        delivered: dict[str, int] = found["delivered"]
        return {kind: number for kind, number in delivered.items() if number}

    def place(self, product: str, vendor: Receiver) -> tuple[str, str]:
        """Return the options that name where a product receives its records."""
        if product == "webhook":
            return ("--url", vendor.url)
        return ("--out", str(self.canvas if product == "canvas" else self.sds))

    @contextmanager
    def service(self) -> Iterator[httpx2.Client]:
        """Run the HTTP source while the block runs; yield a client of it."""
        with self.commands.running("produce", "http", "--port", "0") as service:
            assert service.stdout is not None
            url = json.loads(service.stdout.readline())["url"]
            headers = {"X-API-Key": KEY, "Content-Type": "application/json"}
            with httpx2.Client(base_url=url, headers=headers, trust_env=False, timeout=30) as app:
                yield app

    def zips(self) -> list[Path]:
        """Return the zips that Canvas received, in order."""
        return sorted(self.canvas.glob("*.zip"))

    def set_rows(self) -> dict[str, int]:
        """Return how many rows each file of the set has."""
        return {
            path.name: len(path.read_bytes().splitlines()) - 1
            for path in sorted(self.sds.glob("*.csv"))
        }


def post(app: httpx2.Client, request: dict[str, str]) -> Any:
    """Send a request as it was noted; return the answer, which must be 202."""
    answer = app.post(
        request["path"],
        content=request["body"].encode(),
        headers={"Idempotency-Key": request["key"]},
    )
    assert answer.status_code == 202, answer.text
    return answer.json()


def ids(vendor: Receiver) -> Counter[str]:
    """Return how often a vendor received each event."""
    accepted: list[Received] = vendor.accepted
    return Counter(event.id for event in accepted)


def told(vendor: Receiver) -> dict[str, int]:
    """Return how many events of each kind a vendor received."""
    return dict(Counter(event.event["type"].partition(".")[0] for event in vendor.accepted))


def rows_in(path: Path) -> dict[str, int]:
    """Return how many rows each file of a zip has."""
    found = {}
    with zipfile.ZipFile(path) as archive:
        for name in archive.namelist():
            text = io.StringIO(archive.read(name).decode(), newline="")
            found[name] = sum(1 for _ in csv.DictReader(text))
    return found
