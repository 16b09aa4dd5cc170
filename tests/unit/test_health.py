"""The server of a consumer's readiness, liveness and metrics."""

from __future__ import annotations

import socket
import threading
import urllib.request
from collections.abc import Iterator

import pytest
import uvicorn
from prometheus_client import CollectorRegistry

from bus.errors import Stop
from bus.observe.health import served


def serve(port: int, host: str = "127.0.0.1") -> None:
    with served(host, port, CollectorRegistry(), live=lambda: "", ready=lambda: ""):
        url = f"http://127.0.0.1:{port}/readyz"
        assert urllib.request.urlopen(url, timeout=10).read() == b"ok"


@pytest.fixture
def taken() -> Iterator[int]:
    """Return a port on which somebody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        yield one.getsockname()[1]


@pytest.fixture
def free() -> int:
    """Return a port on which nobody listens."""
    with socket.create_server(("127.0.0.1", 0)) as one:
        return int(one.getsockname()[1])


def test_it_serves_and_frees_its_port(free: int) -> None:
    serve(free)
    serve(free)
    assert not [thread for thread in threading.enumerate() if thread.name == "health"]


def test_a_port_that_is_taken_is_called_in_use(taken: int) -> None:
    with pytest.raises(Stop, match=f"port {taken} on 127.0.0.1 is in use"):
        serve(taken)


def test_an_address_of_another_machine_is_not_called_in_use(free: int) -> None:
    with pytest.raises(Stop, match=r"cannot be opened .*correct .consumer. http_host") as caught:
        serve(free, "192.0.2.1")  # RFC 5737: an address for documentation
    assert "in use" not in str(caught.value)


@pytest.mark.parametrize("error", [RuntimeError("no loop"), SystemExit(3)])
def test_a_server_that_ends_for_another_reason_is_not_called_in_use(
    free: int, monkeypatch: pytest.MonkeyPatch, error: BaseException
) -> None:
    def run(*_: object) -> None:
        raise error

    monkeypatch.setattr(uvicorn.Server, "run", run)
    with pytest.raises(Stop, match=f"ended before it served .{type(error).__name__}.") as caught:
        serve(free)
    assert "in use" not in str(caught.value)
