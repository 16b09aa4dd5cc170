"""The service of the gate: it listens, answers, and ends at a signal."""

from __future__ import annotations

import os
import signal
import socket
import threading
from pathlib import Path

import httpx2
import pytest

from bus.errors import Stop
from bus.settings import Settings
from bus.vendors import gate_server, registry_gate
from bus.vendors.gate_server import serve
from bus.vendors.registry_tokens import new_token
from tests.fakes.registry import FakeRegistry


def test_it_answers_and_ends_at_a_signal(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    settings, registry = Settings(home=tmp_path), FakeRegistry()
    monkeypatch.setattr(registry_gate, "client", registry.client)
    monkeypatch.setattr(gate_server, "must_have_some", lambda _: None)
    token = new_token(settings, "math-app", "vendor-math-app-a")
    answers: list[httpx2.Response] = []

    def ask(url: str) -> None:
        try:
            answers.append(httpx2.get(f"{url}/subjects", auth=("vendor-math-app-a", token)))
            answers.append(httpx2.get(f"{url}/subjects"))
        finally:
            os.kill(os.getpid(), signal.SIGTERM)

    before = signal.getsignal(signal.SIGTERM)
    serve(settings, lambda url: threading.Thread(target=ask, args=(url,)).start())
    assert [one.status_code for one in answers] == [200, 401]
    assert answers[0].json() == []
    assert "server" not in answers[0].headers
    assert signal.getsignal(signal.SIGTERM) == before


def test_a_port_in_use_is_said(tmp_path: Path) -> None:
    with socket.socket() as taken:
        taken.bind(("127.0.0.1", 0))
        taken.listen()
        with pytest.raises(Stop, match="choose another address with --host and --port"):
            serve(Settings(home=tmp_path), print, port=taken.getsockname()[1])


def test_a_missing_certificate_is_said(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(gate_server, "must_have_some", lambda _: None)
    with pytest.raises(Stop, match="TLS cannot start with certificate none"):
        serve(Settings(home=tmp_path), print, certificate_file="none.pem", key_file="none.key")
