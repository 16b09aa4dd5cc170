"""deploy/ starts with one command on a real engine and takes two days' extracts.

A broker is down on the second day. The deployment stops in order and leaves nothing behind.
"""

from __future__ import annotations

import json
import time
from collections import Counter
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import httpx2
import pytest
from testcontainers.core.container import DockerContainer

from tests import canvas_model, sds_model
from tests.integration.commands import until
from tests.integration.deployment import UP_SECONDS, Deployment, deployment, vendor
from tests.integration.test_main_job import DAY_1, DAY_2, FIRST, SECOND
from tests.oneroster_truth import truth

PRODUCTS = ("canvas", "microsoft-sds", "webhook")
OURS = {"oneroster-csv", "http", *PRODUCTS}


@pytest.fixture
def deployed(pytestconfig: pytest.Config, tmp_path: Path) -> Iterator[Deployment]:
    if pytestconfig.getoption("--bus") != "testcontainers":
        pytest.skip("needs a Docker engine and is asked for by --bus=testcontainers")
    with deployment(tmp_path) as found:
        yield found


def test_it_comes_up_with_one_command_and_takes_the_samples_two_days(
    deployed: Deployment, tmp_path: Path
) -> None:
    deployed.compose("up", "-d", seconds=UP_SECONDS)
    all_healthy(deployed)
    with vendor(deployed) as listening:
        deliver(deployed, DAY_1)
        state = canvas_model.apply(zips(deployed, tmp_path))
        assert canvas_model.rosters(state) == truth(DAY_1).rosters
        assert sds(deployed, tmp_path) == truth(DAY_1).rosters

        deployed.compose("stop", "kafka-2")
        deliver(deployed, DAY_2)
        (_, second) = zips(deployed, tmp_path)
        canvas_model.apply([second], state)
        assert canvas_model.rosters(state) == truth(DAY_2).rosters
        assert sds(deployed, tmp_path) == truth(DAY_2).rosters
        post_attendance(deployed, state)
        reported = now_and_then(lambda: attendance(listening), "the vendor receives attendance")
        deployed.compose("start", "kafka-2")
        all_healthy(deployed)

    assert all(verified for _, _, verified in reported)
    assert len({id_ for id_, _, _ in reported}) == len(reported)
    kinds = Counter(kind for _, kind, _ in reported)
    created, updated, withdrawn, _ = SECOND["student"]
    assert kinds["student.created"] == FIRST["student"] + created
    assert (kinds["student.updated"], kinds["student.withdrawn"]) == (updated, withdrawn)
    assert kinds["attendance.recorded"] == 1

    assert not [one for one in deployed.containers().values() if one.attrs["RestartCount"]]
    deployed.compose("stop")
    assert {name: deployed.states()[name] for name in OURS} == dict.fromkeys(OURS, "exited 0")


def all_healthy(deployed: Deployment) -> None:
    """Wait until all services are healthy and the schemas are registered, or name the others."""

    def healthy() -> bool:
        states = deployed.states()
        return states.pop("schemas") == "exited 0" and set(states.values()) == {"healthy"}

    try:
        now_and_then(healthy, "all services are healthy")
    except AssertionError as error:
        error.add_note(str(deployed.states()) + deployed.compose("logs", "--tail", "5"))
        raise


def deliver(deployed: Deployment, extract: Path) -> None:
    """Put an extract into the drop folder, and wait until every product has the changes."""
    deployed.put(extract)

    def taken() -> bool:
        assert not deployed.dropped("refused")
        return extract.name in deployed.dropped("taken")

    def caught_up() -> bool:
        groups = deployed.bus("status")["groups"]
        return all(groups.get(f"schoolbus.{name}") == {"lag": 0} for name in PRODUCTS)

    now_and_then(taken, f"{extract.name} is taken")
    now_and_then(caught_up, "the products have it")


def zips(deployed: Deployment, folder: Path) -> list[Path]:
    """Return the zips that Canvas received, in order."""
    return sorted(deployed.out("canvas", folder / "canvas").glob("*.zip"))


def sds(deployed: Deployment, folder: Path) -> set[tuple[str, str, str]]:
    """Return the rosters that SDS reads from its folder."""
    return sds_model.rosters(sds_model.load(deployed.out("microsoft-sds", folder / "sds")))


def post_attendance(deployed: Deployment, state: canvas_model.State) -> None:
    """POST an attendance record from this machine, as the front office."""
    _, student, _ = next(entry for entry in canvas_model.rosters(state) if entry[2] == "student")
    school = next(id_ for (id_,), row in state["accounts.csv"].items() if row["parent_account_id"])
    answer = httpx2.post(
        f"http://127.0.0.1:{deployed.port}/v1/attendance",
        json={
            "studentSourcedId": student,
            "schoolSourcedId": school,
            "eventDate": "2026-11-25",
            "attendanceEventCategory": "tardy",
        },
        headers={"X-API-Key": deployed.key},
        timeout=60,
        trust_env=False,
    )
    assert answer.status_code == 202, answer.text


def attendance(listening: DockerContainer) -> list[tuple[str, str, bool]]:
    """Return what the vendor received (id, type, signature verified), once attendance has come."""
    lines = listening.get_logs()[0].decode().splitlines()
    reported = [(id_, kind, verified) for id_, kind, verified in map(json.loads, lines)]
    return reported if any(kind == "attendance.recorded" for _, kind, _ in reported) else []


def now_and_then(condition: Callable[[], Any], what: str) -> Any:
    """Call `until` less often, for conditions that need a process."""

    def asked() -> Any:
        if not (found := condition()):
            time.sleep(2)
        return found

    return until(asked, what, 300)
