"""What a random life of a district checks besides the vendors' topics: the answers of the gate."""

from __future__ import annotations

import asyncio
import random
import re
from base64 import b64encode
from collections.abc import Sequence
from typing import Any

import httpx2
import pytest

from bus.registry.registry_client import client
from bus.settings import Settings
from bus.vendors import registry_gate
from bus.vendors.registry_tokens import new_token
from tests.faults.canaries import found_in


def gate_shows_only_their_own(settings: Settings, names: Sequence[str], rng: random.Random) -> int:
    """Check what the gate answers to each vendor; return how many answers there were."""
    with client(settings) as registry:
        subjects = registry.subjects()
        newest = max(registry.version(name).id for name in subjects)
    app, answers = registry_gate.create(settings), 0
    with pytest.MonkeyPatch.context() as patch, asyncio.Runner() as runner:
        patch.setattr(registry_gate, "REST", 0.0)
        for name in names:
            user = f"vendor-{name}-a"
            login = b64encode(f"{user}:{new_token(settings, name, user)}".encode()).decode()
            found = runner.run(_asked(app, f"Basic {login}", name, subjects, rng, newest))
            answers += len(found)
            for path, body in found.items():
                where = f"{name}, {path}"
                assert not found_in(body), where
                others = [
                    one
                    for one in names
                    if one != name and re.search(rf"vendor[.-]{one}".encode(), body)
                ]
                assert not others, f"{where}: names {others}"
    return answers


async def _asked(
    app: Any, login: str, name: str, subjects: list[str], rng: random.Random, newest: int
) -> dict[str, bytes]:
    """Ask the gate for everything of a vendor, and for some things of others."""
    paths = ["/", "/subjects", "/schemas/types", "/metrics", "/config"]
    own = [one for one in subjects if f".vendor.{name}." in one]
    for one in own + rng.sample(sorted(set(subjects) - set(own)), 4):
        paths += [f"/subjects/{one}/versions", f"/subjects/{one}/versions/latest"]
        paths += [f"/subjects/{one}/versions/1"] if one in own else []
    paths += [f"/schemas/ids/{number}" for number in rng.sample(range(1, newest + 3), 5)]
    transport = httpx2.ASGITransport(app)
    found = {}
    async with httpx2.AsyncClient(transport=transport, base_url="http://gate") as http:
        for path in paths:
            answer = await http.get(path, headers={"Authorization": login})
            found[path] = answer.content
    return found
