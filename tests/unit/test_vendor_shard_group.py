"""Instances that wait for others, or that were paused."""

from __future__ import annotations

import json
import threading
import time
from typing import Any
from unittest.mock import MagicMock

import pytest

from bus.errors import RetryLater
from bus.settings import VendorsSettings
from bus.vendors import (
    shard_group,
    shard_number,
)
from bus.vendors.projection_run import Run
from tests.unit.test_vendor_projection import DAY
from tests.unit.two_shards import SETTINGS


def test_two_instances_with_different_new_numbers_do_not_wait_for_each_other(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Nobody works with the number that counts. One of the two wins, and the other one waits."""
    stored = [(1, "")]
    stopping = threading.Event()
    monkeypatch.setattr(shard_number, "_read", lambda _: stored[-1])
    members = [MagicMock(client_id="vendors-2"), MagicMock(client_id="vendors-3")]
    group = MagicMock(**{"result.return_value.members": members})
    admin = MagicMock(**{"describe_consumer_groups.return_value.__getitem__.return_value": group})
    monkeypatch.setattr(shard_number, "AdminClient", lambda _: admin)

    class Sender:
        def __init__(self, *_: Any) -> None: ...
        def add(self, value: bytes, _: bytes) -> None:
            stored.append(tuple(json.loads(value)))

        def flush(self) -> None: ...

    monkeypatch.setattr(shard_number, "Sender", Sender)
    assert shard_number.agreed(SETTINGS, stopping, lambda: None)
    other = SETTINGS.model_copy(update={"vendors": VendorsSettings(shards=3)})
    assert not shard_number.agreed(other, stopping, stopping.set)
    assert [number for number, _ in stored] == [1, 2]


def test_an_instance_that_was_paused_stops_its_shards_at_once(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Kafka says only later that another instance has them."""
    now = [0.0]
    stopped: list[int] = []

    class Consumer:
        def __init__(self, *_: Any) -> None:
            self.polls = 0

        def subscribe(self, _: Any, on_assign: Any, **__: Any) -> None:
            self.assigned = on_assign

        def poll(self, _: float) -> None:
            self.polls += 1
            if self.polls == 1:
                self.assigned(self, [MagicMock(partition=1)])
            if self.polls == 3:
                now[0] += 30

        def assign(self, _: Any) -> None: ...
        def pause(self, _: Any) -> None: ...
        def close(self) -> None: ...

    thread = MagicMock(error=None)
    thread.outcome = MagicMock(sent=0, undecodable=0, agreements=[])
    thread.ask_to_stop = lambda: stopped.append(1)
    monkeypatch.setattr(shard_group, "Consumer", Consumer)
    monkeypatch.setattr(shard_group, "group_settings", lambda *_: {})
    monkeypatch.setattr(shard_group.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(shard_group, "ShardThread", lambda *_, **__: thread)
    monkeypatch.setattr(shard_group.shard_number, "agreed", lambda *_: True)
    group = shard_group.ShardGroup(Run(SETTINGS, lambda: DAY, lambda: now[0]))
    with pytest.raises(RetryLater, match="paused"):
        group.work()
    group.close()
    assert stopped == [1]


def test_an_instance_that_lost_its_shards_agrees_on_the_number_again(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """While it was paused, an instance with another number may have begun to work."""
    agreed: list[int] = []
    stopping = threading.Event()
    part = MagicMock(partition=0)

    class Consumer:
        def __init__(self, *_: Any) -> None:
            self.polls = 0

        def subscribe(self, _: Any, on_assign: Any, on_revoke: Any, on_lost: Any) -> None:
            self.assigned, self.lost = on_assign, on_lost

        def poll(self, _: float) -> None:
            self.polls += 1
            if self.polls == 1:
                self.assigned(self, [part])
            elif self.polls == 2:
                self.lost(self, [part])
            elif self.polls == 3:
                self.assigned(self, [part])
            elif self.polls == 5:
                stopping.set()

        def assign(self, _: Any) -> None: ...
        def pause(self, _: Any) -> None: ...
        def close(self) -> None: ...

    monkeypatch.setattr(shard_group, "Consumer", Consumer)
    monkeypatch.setattr(shard_group, "group_settings", lambda *_: {})
    monkeypatch.setattr(shard_group.topics, "ensure", lambda *_: None)
    monkeypatch.setattr(shard_group, "ShardThread", MagicMock(return_value=MagicMock(error=None)))
    monkeypatch.setattr(shard_group.shard_number, "agreed", lambda *_: agreed.append(1) or True)
    run = Run(SETTINGS, lambda: DAY, time.monotonic, stopping=stopping)
    group = shard_group.ShardGroup(run)
    monkeypatch.setattr(group, "_stop", lambda: group._threads.clear())
    group.work()
    assert len(agreed) == 2
