"""Defects that `tests.faults.step_log` builds into the bus when the variable `DEFECT` names one.

They show that the checks can fail.
"""

from __future__ import annotations

import os
import signal
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from bus.consume.worker import Worker
from bus.delivery import Batch, Part
from bus.kafka.transactions import Publisher


def halves() -> None:
    """Commit each piece of a transaction by itself, and die after the second piece."""
    publish = Publisher.publish
    pieces = 0

    def commit_each_piece(publisher: Publisher, kind: str, change: Any, batch: Any) -> None:
        nonlocal pieces
        publish(publisher, kind, change, batch)
        publisher._producer.commit_transaction(30)
        publisher._producer.begin_transaction()
        pieces += 1
        if pieces == 2:
            os.kill(os.getpid(), signal.SIGKILL)

    Publisher.publish = commit_each_piece  # type: ignore[method-assign]


def lost() -> None:
    """Leave out the first record of each batch that is published."""
    publish = Publisher.publish

    def without_first(publisher: Publisher, kind: str, change: Any, batch: Any) -> None:
        publish(publisher, kind, change, batch.slice(kind == "student"))

    Publisher.publish = without_first  # type: ignore[method-assign]


def doubled() -> None:
    """Publish everything twice."""
    publish = Publisher.publish

    def publish_twice(publisher: Publisher, kind: str, change: Any, batch: Any) -> None:
        publish(publisher, kind, change, batch)
        publish(publisher, kind, change, batch)

    Publisher.publish = publish_twice  # type: ignore[method-assign]


def committed_first() -> None:
    """Commit offsets before the batch is delivered, and die in between."""

    def commit_first(loop: Worker, batch: Batch) -> Any:
        loop._commit(batch.offsets)
        os.kill(os.getpid(), signal.SIGKILL)

    Worker._hand_over = commit_first  # type: ignore[method-assign]


def undelivered() -> None:
    """Leave out the last row of each student part."""
    _change_parts(
        lambda part: _select_rows(part, slice(-1) if part.kind == "student" else slice(None))
    )


def reversed_() -> None:
    """Deliver rows in reverse order."""
    _change_parts(lambda part: _select_rows(part, slice(None, None, -1)))


def _select_rows(part: Part, rows: slice) -> Part:
    return replace(
        part, rows=part.rows[rows], records=part.records[rows], messages=part.messages[rows]
    )


def _change_parts(change: Callable[[Part], Part]) -> None:
    hand_over = Worker._hand_over

    def changed(loop: Worker, batch: Batch) -> Any:
        return hand_over(loop, replace(batch, parts=[change(part) for part in batch.parts]))

    Worker._hand_over = changed  # type: ignore[method-assign]


DEFECTS: dict[str, Callable[[], None]] = {
    "halves": halves,
    "lost": lost,
    "doubled": doubled,
    "committed first": committed_first,
    "undelivered": undelivered,
    "reversed": reversed_,
}


def build_in() -> None:
    """Build in the defect that `DEFECT` names, if it names one."""
    if name := os.environ.get("DEFECT"):
        DEFECTS[name]()
