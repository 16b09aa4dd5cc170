"""A full disk: for a product's folder, for the bus's working files, and for Kafka's data.

Each has a small separate file system (tmpfs) that fills up while it is in use. The bus must report
the full disk in plain words, lose nothing, and continue when there is room.
"""

from __future__ import annotations

import errno
import os
import shutil
import subprocess
import sys
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from bus import local
from bus.demo.sample import District
from bus.registry import subjects
from bus.settings import KafkaSettings, RegistrySettings, Settings
from tests.faults import checker
from tests.faults.checker import Topics
from tests.faults.conftest import Findings
from tests.faults.killing import ready
from tests.faults.test_kills import SECRET, Products, days, producing
from tests.integration.commands import Commands
from tests.integration.conftest import Bus
from tests.webhook_receiver import Receiver

FULL = (os.strerror(errno.ENOSPC), "SQLITE_FULL")


class Disk:
    """A small file system at a folder."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._ballast = folder / "ballast"

    def fill(self, left: int = 0) -> None:
        """Fill the file system up to this many free bytes."""
        with self._ballast.open("ab") as file:
            while (size := shutil.disk_usage(self.folder).free - left) > 0:
                try:
                    os.posix_fallocate(file.fileno(), self._ballast.stat().st_size, size)
                except OSError as error:  # another process took some of the space first
                    if error.errno != errno.ENOSPC:
                        raise

    def free(self) -> None:
        """Make room."""
        self._ballast.unlink()


@contextmanager
def disk(folder: Path, megabytes: int) -> Iterator[Disk]:
    """Mount a small file system while the block runs."""
    if sys.platform != "linux" or os.getuid() != 0:
        pytest.skip("only root on Linux may mount a separate file system")
    folder.mkdir(parents=True, exist_ok=True)
    size = f"size={megabytes}m"
    done = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", size, "tmpfs", str(folder)], capture_output=True, text=True
    )
    if done.returncode:
        pytest.skip(f"cannot mount a file system here: {done.stderr.strip()}")
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "--lazy", str(folder)], check=True)


def reports_full_disk(text: str) -> bool:
    """Return whether a text says that a disk is full."""
    return any(words in text for words in FULL)


@contextmanager
def in_time(process: subprocess.Popen[str]) -> Iterator[None]:
    """Terminate a process whose output is read if it takes too long."""
    timer = threading.Timer(60, process.terminate)
    timer.start()
    try:
        yield
    finally:
        timer.cancel()


@pytest.mark.long
@pytest.mark.parametrize("product", ["canvas", "microsoft-sds"])
def test_of_a_product(commands: Commands, findings: Findings, product: str) -> None:
    commands.variables |= ready(commands.variables, SECRET)
    with Receiver(SECRET) as vendor, disk(commands.cwd, 16) as small:
        products = Products(commands.cwd, vendor)
        first, second = days(commands, 2)
        arguments = products.arguments[product]
        with commands.running(*arguments) as process:
            commands.run(*producing(first))
            products.wait(product, first)
            small.fill()
            commands.run(*producing(second))
            published = Topics.of(commands.settings)
            assert process.stderr is not None
            with in_time(process):
                assert any(reports_full_disk(line) for line in process.stderr), (
                    "the full disk is not reported"
                )
            if product != "microsoft-sds":
                at = checker.committed(commands.settings, product)
                products.states[product]().has_all_committed(published, at)
            small.free()
            products.wait(product, second)
        commands.run(*arguments, "--until-caught-up")
        products.check(commands, product, second)
    findings.add(
        f"full disk: {product}'s folder", "filled before the second day", "reported; continues"
    )


@pytest.mark.long
def test_of_the_producers_working_files(bus: Bus, commands: Commands, findings: Findings) -> None:
    endpoints = local.endpoints(bus.home)
    home = commands.cwd / "home"
    commands.variables |= {
        "BUS_HOME": str(home),
        "BUS_KAFKA__BOOTSTRAP": endpoints.bootstrap,
        "BUS_REGISTRY__URL": endpoints.registry,
    }
    first, second = days(commands, 2)
    reports = []
    with disk(home, 64) as small:
        for path in (first, second):
            for left in (0, 200_000, 2_000_000, 6_000_000):
                small.fill(left)
                process = commands.start(*producing(path))
                printed, _ = process.communicate(timeout=120)
                if process.returncode:
                    assert reports_full_disk(printed) or "its disk has" in printed, printed
                    reports.append(printed)
                small.free()
            commands.run(*producing(path))
            published = Topics.of(commands.settings)
            published.has_valid_histories()
            published.equals_sis(path)
    assert reports
    findings.add(
        "full disk: the producer's working files",
        "8 runs with 0 to 6 MB left",
        f"{len(reports)} of them report it; then the topics equal the SIS, nothing twice",
    )


@pytest.mark.long
def test_of_kafkas_data(tmp_path_factory: pytest.TempPathFactory, findings: Findings) -> None:
    home = tmp_path_factory.mktemp("full") / "home"
    local.up(home)
    try:
        local.down(home)
        shutil.copytree(home / "kafka", home / "kept")
        with disk(home / "kafka", 64) as small:
            shutil.copytree(home / "kept", home / "kafka", dirs_exist_ok=True)
            local.up(home)
            settings = Settings(home=home, kafka=KafkaSettings(), registry=RegistrySettings())
            subjects.apply(settings)
            commands = Commands(settings, home.parent)
            # More than fits into what is left of the last block of each file.
            district = District(seed=5, students=1500, change=0.5)
            first, second = (district.write(home.parent / f"{day}.zip", day) for day in (1, 2))
            commands.run(*producing(first))
            small.fill()
            process = commands.start(*producing(second))
            printed, _ = process.communicate(timeout=180)
            assert process.returncode == 1, printed
            assert "defect" not in printed, printed
            small.free()
            local.up(home)
            commands.run(*producing(second))
            published = Topics.of(settings)
            published.has_valid_histories()
            published.equals_sis(second)
            local.down(home)
    finally:
        local.down(home)
    findings.add("full disk: Kafka's data", "filled before the second day", f"says: {printed[:90]}")
