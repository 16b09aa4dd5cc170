"""The requirements for the machine, and the files of a home."""

from __future__ import annotations

import socket
import threading
from pathlib import Path

import pytest

from bus.errors import Stop
from bus.local import home as homes
from bus.local import machine
from bus.local.home import BusFile, alone, prepare, read_bus_file, write_bus_file


def test_too_little_memory_is_said_with_the_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "memory_left_mb", lambda: machine.MEMORY_MB)
    machine.check_memory()
    monkeypatch.setattr(machine, "memory_left_mb", lambda: machine.MEMORY_MB - 1)
    with pytest.raises(Stop, match="899 MB are left: end other programs"):
        machine.check_memory()


def test_too_little_disk_is_said_with_the_mend(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(machine, "disk_left_mb", lambda _: machine.DISK_MB)
    machine.check_disk(tmp_path)
    monkeypatch.setattr(machine, "disk_left_mb", lambda _: machine.DISK_MB - 1)
    with pytest.raises(Stop, match=r"999 MB left, but Kafka needs 1000 MB .* BUS_HOME"):
        machine.check_disk(tmp_path)


def test_the_disk_of_a_home_that_is_not_made_yet_is_that_of_its_parent(tmp_path: Path) -> None:
    assert machine.disk_left_mb(tmp_path / "a" / "b") > 0


def test_a_port_with_a_listener_is_not_free() -> None:
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
        assert not machine.port_free(port)
        assert machine.port_open(port)
    assert machine.port_free(port)
    assert not machine.port_open(port)


def test_ports_that_are_taken_are_not_chosen(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(machine, "PORTS", range(20_000, 20_200))
    monkeypatch.setattr(machine, "port_free", lambda _: True)
    assert machine.free_port(set(machine.PORTS) - {20_007}) == 20_007
    with pytest.raises(Stop, match="no free port was found between 20000 and 20199"):
        machine.free_port(machine.PORTS)


def test_a_java_that_does_not_run_is_said(tmp_path: Path) -> None:
    with pytest.raises(Stop, match=r"does not run .*install the bus again"):
        machine.java_version(str(tmp_path / "java"))


@pytest.mark.parametrize("content", ["", "{", "[]", '{"ports": 1}', "\0\0"])
def test_a_damaged_memory_of_a_home_is_no_memory(tmp_path: Path, content: str) -> None:
    (tmp_path / "bus.json").write_text(content)
    assert read_bus_file(tmp_path) == BusFile()


def test_a_home_remembers(tmp_path: Path) -> None:
    write_bus_file(tmp_path, memory := BusFile({"kafka": 20_001}, {"kafka": "4.3.0"}))
    assert read_bus_file(tmp_path) == memory


def test_a_home_is_its_owners_alone(tmp_path: Path) -> None:
    prepare(tmp_path / "home")
    assert (tmp_path / "home").stat().st_mode & 0o077 == 0


def test_a_home_that_cannot_be_made_is_said_with_the_mend(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with pytest.raises(Stop, match=r"is not writable .* BUS_HOME"):
        prepare(tmp_path / "file" / "home")


def test_one_command_at_a_time_changes_a_home_and_the_other_says_that_it_waits(
    tmp_path: Path,
) -> None:
    prepare(tmp_path)
    waiting = threading.Event()
    order: list[str] = []

    def other() -> None:
        with alone(tmp_path, lambda line: (order.append(line), waiting.set())[0]):
            order.append("second")

    thread = threading.Thread(target=other)
    with alone(tmp_path):
        thread.start()
        assert waiting.wait(5)
        order.append("first")
    thread.join()
    assert order == [
        f"another `bus up` or `bus down` is busy in {tmp_path}; waiting for it",
        "first",
        "second",
    ]


def test_waiting_for_another_command_has_an_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(homes, "LOCK_SECONDS", 0.01)
    prepare(tmp_path)
    with (
        alone(tmp_path),
        pytest.raises(Stop, match="another `bus up` or `bus down` has been busy"),
        alone(tmp_path),
    ):
        pass
