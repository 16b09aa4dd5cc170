"""Run `bus …` in small steps and log each step, so that a test can aim a kill at one.

    python -m tests.faults.step_log LOG RECORDS ARGUMENT…

LOG is a file that gets a line before and after each step that a kill may interrupt. RECORDS is
the largest number of records in a transaction and in a consumer's batch; a replay reads only a
little further ahead. A producer also logs which events belong together: `commit RUN FIRST LAST` is
a transaction of the events FIRST to LAST.
"""

from __future__ import annotations

import os
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import consumers.canvas
import consumers.microsoft_sds
import consumers.webhook
from bus import cli
from bus.consume.worker import Worker
from bus.ingest import pipeline, snapshot
from bus.kafka.transactions import Publisher
from bus.replay import history
from tests.faults import defects

PIECE_EVENTS = 25
"""A transaction gets a line in the log after this many events."""
PRODUCTS = (consumers.canvas, consumers.microsoft_sds, consumers.webhook)


class StepLog:
    """The log file. A killed process keeps all of its lines, because each is written at once."""

    def __init__(self, path: str) -> None:
        self._file = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, *words: object) -> None:
        """Add a line."""
        os.write(self._file, (" ".join(str(word) for word in words) + "\n").encode())

    def around(self, owner: Any, name: str) -> None:
        """Log when this function of a module or class begins and ends."""
        real: Callable[..., Any] = getattr(owner, name)

        def logged(*arguments: Any, **named: Any) -> Any:
            self.write(name)
            result = real(*arguments, **named)
            self.write(name, "done")
            return result

        setattr(owner, name, logged)


def log_transactions(log: StepLog) -> None:
    """Log which events are in a transaction before it is committed."""
    transaction, publish = Publisher.transaction, Publisher.publish

    @contextmanager
    def logged(publisher: Publisher) -> Iterator[None]:
        before = published.get(publisher, 0)
        log.write("begin")
        with transaction(publisher):
            yield
            if (last := published.get(publisher, 0)) > before:
                log.write("commit", publisher._run, before + 1, last)
        log.write("committed")

    def counted(publisher: Publisher, kind: str, change: Any, batch: Any) -> None:
        for start in range(0, batch.num_rows, PIECE_EVENTS):
            piece = batch.slice(start, PIECE_EVENTS)
            publish(publisher, kind, change, piece)
            published[publisher] = published.get(publisher, 0) + piece.num_rows
            log.write("publish")

    published: dict[Publisher, int] = {}
    Publisher.transaction, Publisher.publish = logged, counted


def main() -> None:
    """Run the command of the command line."""
    path, records, *arguments = sys.argv[1:]
    log = StepLog(path)
    defects.build_in()
    pipeline.TRANSACTION_RECORDS = pipeline.BATCH = int(records)
    history.AT_ONCE, history.AHEAD = int(records), 2 * int(records)
    log_transactions(log)
    log.around(snapshot, "attach")
    log.around(snapshot, "remember")
    for module in PRODUCTS:
        module.PRODUCT = replace(module.PRODUCT, batch_records=int(records))
    for name in ("_hand_over", "_settle", "_commit"):
        log.around(Worker, name)
    sys.argv = ["bus", *arguments]
    log.write("start")
    cli.main()


if __name__ == "__main__":
    main()
