"""`bus up` and `bus down` without a server: small programs replace Kafka and the registry."""

from __future__ import annotations

import socket
import sys
import time
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from bus.errors import Stop
from bus.local import damage, kafka_process, lifecycle, machine, process, registry_process, sharing
from bus.local.download import Programs
from bus.local.home import BusFile, prepare, read_bus_file, write_bus_file

FAKE_PROGRAM = f"""#!{sys.executable}
import signal, socket, sys
listeners = [socket.create_server(("127.0.0.1", int(port))) for port in sys.argv[2:]]
signal.pause()
"""
BROKEN = f"#!{sys.executable}\nraise SystemExit('ERROR: no space left on device')\n"


class Machine:
    """The programs that are started instead of Kafka and the registry."""

    def __init__(self, folder: Path) -> None:
        self.programs = Programs(folder, "4.3.0", folder, "3.3.3")
        self.home = folder / "home"
        self.texts = {"kafka": FAKE_PROGRAM, "registry": FAKE_PROGRAM}
        self.said: list[str] = []

    def command(self, name: str, ports: dict[str, int]) -> list[str]:
        program = self.home / f"{name}.program"
        program.write_text(self.texts[name])
        program.chmod(0o755)
        return [str(program), *(str(ports[port]) for port in lifecycle.PORTS[name])]

    def up(self) -> lifecycle.Endpoints:
        return lifecycle.up(self.home, say=self.said.append, ready_seconds=10)


@pytest.fixture
def on(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Machine]:
    made = Machine(tmp_path)
    monkeypatch.setattr(lifecycle, "programs", lambda _: made.programs)
    monkeypatch.setattr(kafka_process, "formatted", lambda _: True)
    monkeypatch.setattr(sharing, "options", lambda *_: [])
    monkeypatch.setattr(
        kafka_process, "command", lambda _, __, ___, ports, ____: made.command("kafka", ports)
    )
    monkeypatch.setattr(kafka_process, "answers", lambda *_: True)
    monkeypatch.setattr(registry_process, "answers", lambda *_: True)
    monkeypatch.setattr(
        registry_process,
        "command",
        lambda *_: made.command("registry", read_bus_file(made.home).ports),
    )
    yield made
    lifecycle.down(made.home)


def test_up_down_up_and_twice_each(on: Machine) -> None:
    assert lifecycle.down(on.home) == []
    first = on.up()
    assert on.up() == first == lifecycle.endpoints(on.home)
    running = lifecycle.status(on.home).running
    assert {name: one.version for name, one in running.items()} == {
        "kafka": "4.3.0",
        "registry": "3.3.3",
    }
    assert lifecycle.down(on.home) == ["kafka", "registry"]
    assert lifecycle.down(on.home) == []
    assert lifecycle.status(on.home) == lifecycle.Status(None, {}, ())
    assert on.up() == first, "a home keeps its ports"
    assert on.said == []


def test_what_was_killed_is_known_and_started_again_alone(on: Machine) -> None:
    found = on.up()
    before = lifecycle.status(on.home).running
    killed = process.find(on.home, "kafka")
    assert killed
    killed.kill()
    while process.alive(killed):
        time.sleep(0.01)

    state = lifecycle.status(on.home)
    assert (state.endpoints, state.dead, list(state.running)) == (None, ("kafka",), ["registry"])
    with pytest.raises(Stop, match=r"the kafka of the bus in .* is not running: run `bus up`"):
        lifecycle.endpoints(on.home)

    assert on.up() == found
    after = lifecycle.status(on.home).running
    assert after["registry"] == before["registry"]
    assert after["kafka"].pid != before["kafka"].pid
    assert on.said == ["kafka had stopped (killed, or the machine restarted); starting it again"]


def test_a_process_that_has_reached_a_bus_knows_where_it_will_be_again(on: Machine) -> None:
    with pytest.raises(Stop, match="bus up"):
        lifecycle.reach(on.home)
    there = on.up()
    assert lifecycle.reach(on.home) == there
    lifecycle.down(on.home)
    assert lifecycle.reach(on.home) == there


def test_a_port_in_use_is_given_up_and_said(on: Machine) -> None:
    on.up()
    lifecycle.down(on.home)
    port = read_bus_file(on.home).ports["kafka"]
    with socket.create_server(("127.0.0.1", port)):
        found = on.up()
    assert found.bootstrap != f"127.0.0.1:{port}"
    assert on.said == [
        f"port {port} is in use by another program; kafka now has {found.bootstrap[10:]}"
    ]


def test_when_one_does_not_start_none_stays(on: Machine) -> None:
    on.texts["kafka"] = BROKEN
    with pytest.raises(Stop, match=r"(?s)kafka ended while it was starting.*no space left"):
        on.up()
    assert lifecycle.status(on.home) == lifecycle.Status(None, {}, ())


def test_when_one_never_answers_none_stays(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(registry_process, "answers", lambda *_: False)
    with pytest.raises(Stop, match="registry did not answer within 0 s"):
        lifecycle.up(on.home, ready_seconds=0.3)
    assert lifecycle.status(on.home) == lifecycle.Status(None, {}, ())


def test_one_that_hangs_is_named_and_left_to_its_owner(
    on: Machine, monkeypatch: pytest.MonkeyPatch
) -> None:
    on.up()
    monkeypatch.setattr(kafka_process, "answers", lambda *_: False)
    with pytest.raises(Stop, match="does not answer: run `bus down`, then `bus up`"):
        lifecycle.up(on.home, ready_seconds=0.2)
    assert len(lifecycle.status(on.home).running) == 2


@pytest.mark.parametrize(
    ("look", "why"),
    [
        ("check_memory", "memory"),
        ("check_disk", "disk"),
    ],
)
def test_nothing_is_started_on_a_machine_that_is_too_small(
    on: Machine, monkeypatch: pytest.MonkeyPatch, look: str, why: str
) -> None:
    def refuse(*_: object) -> None:
        raise Stop(why)

    monkeypatch.setattr(machine, look, refuse)
    with pytest.raises(Stop, match=why):
        on.up()
    assert lifecycle.status(on.home) == lifecycle.Status(None, {}, ())


def test_nothing_is_started_on_damaged_data(on: Machine, monkeypatch: pytest.MonkeyPatch) -> None:
    def refuse(*_: object) -> None:
        raise Stop("damaged")

    monkeypatch.setattr(damage, "check", refuse)
    with pytest.raises(Stop, match="damaged"):
        on.up()
    assert lifecycle.status(on.home) == lifecycle.Status(None, {}, ())


def test_data_of_a_newer_program_is_not_touched(on: Machine) -> None:
    prepare(on.home)
    write_bus_file(on.home, BusFile(versions={"kafka": "4.10.0"}))
    with pytest.raises(Stop, match=r"written by kafka 4\.10\.0, but this Schoolbus has 4\.3\.0"):
        on.up()
    on.programs = replace(on.programs, kafka_version="4.11.0")
    on.up()
    assert read_bus_file(on.home).versions["kafka"] == "4.11.0"


def test_ports_that_are_forgotten_while_it_runs_are_said(on: Machine) -> None:
    on.up()
    (on.home / "bus.json").unlink()
    with pytest.raises(
        Stop, match=r"bus\.json is missing or damaged: run `bus down`, then `bus up`"
    ):
        lifecycle.endpoints(on.home)
    assert lifecycle.down(on.home) == ["kafka", "registry"]
