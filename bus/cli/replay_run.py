"""Runs a replay in this process, with a progress bar on stderr."""

from __future__ import annotations

import os
import signal
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.cli.output import stderr

if TYPE_CHECKING:
    from bus.delivery import Delivery
    from bus.replay.replay_log import ReplayEntry, ReplayRequest, ReplayState

POLITE = 10
"""How much a replay raises its `nice` value, so that live processes on the machine come first."""


def replayed(
    loaded: Any,
    product: str,
    records: dict[str, set[str]],
    why: str,
    out: Path | None,
    url: str | None,
) -> dict[str, Any]:
    """Replay the current state of these records. Return the replay as `--json` prints it.

    records: ids by kind.
    """
    from bus import plugins
    from bus.kafka.cloudevents import now
    from bus.replay.replay_log import ReplayRequest, keyed, new_id, user_at_machine
    from bus.replay.window import resolve

    kinds = [kind for kind in plugins.product(product).kinds if kind in records]
    window = resolve(loaded, kinds)
    about = ReplayRequest(
        id=new_id(product),
        product=product,
        since="beginning",
        until="now",
        records={kind: sorted(records[kind]) for kind in kinds},
        only_current=True,
        why=why,
        by=user_at_machine(),
        at=now(),
        start=keyed(window.start),
        stop=keyed(window.stop),
    )
    return as_json(run_replay(loaded, about, None, out, url))


def run_replay(
    loaded: Any, about: ReplayRequest, state: ReplayState | None, out: Path | None, url: str | None
) -> ReplayEntry:
    """Run a replay to its end, or until SIGTERM or Ctrl-C pauses it. Return how it ended.

    state:    the progress of an earlier process, or None.
    out, url: replace those of the settings.
    """
    from bus import plugins
    from bus.observe import telemetry
    from bus.plugins import delivery_into
    from bus.replay.engine import ReplayEngine, check
    from bus.replay.presence import Presence
    from bus.replay.selection import select

    telemetry.configure(loaded.telemetry)
    if hasattr(os, "nice"):
        os.nice(POLITE)
    what = plugins.product(about.product)
    chosen = select(
        loaded,
        what.kinds,
        entities=about.entities,
        schools=about.schools,
        students=about.students,
        records=about.records,
    )
    delivery: Delivery
    if about.into:
        delivery = delivery_into(what, loaded, about.into)
    else:
        delivery = what.open(plugins.product_settings(what, loaded, out=out, url=url))
    try:
        check(what, delivery, about)
        with _ProgressBar(about) as update:
            replay = ReplayEngine(
                loaded, what, delivery, about, chosen, state=state, progress=update
            )
            for number in (signal.SIGTERM, signal.SIGINT):
                signal.signal(number, lambda *_: replay.stop())
            with Presence(loaded, about.id):
                ended = replay.run()
    finally:
        delivery.close()
    from bus.replay.replay_log import ReplayEntry

    return ReplayEntry(about, ended)


class _ProgressBar:
    """A line on stderr with the progress of a replay, its speed and the time left."""

    def __init__(self, about: ReplayRequest) -> None:
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        self._progress = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            TextColumn("{task.percentage:>3.0f} %  {task.fields[delivered]:,} delivered"),
            TextColumn("{task.fields[rate]:,.0f}/s"),
            TimeRemainingColumn(),
            console=stderr,
            transient=True,
        )
        self._task = self._progress.add_task(about.id, total=1.0, delivered=0, rate=0.0)

    def __enter__(self) -> Any:
        self._progress.start()
        return self._update

    def __exit__(self, *_: object) -> None:
        self._progress.stop()

    def _update(self, entry: ReplayEntry) -> None:
        delivered = sum(entry.state.delivered.values())
        rate = delivered / entry.state.seconds if entry.state.seconds else 0.0
        self._progress.update(self._task, completed=entry.share, delivered=delivered, rate=rate)


def as_json(entry: ReplayEntry, *, died: bool = False) -> dict[str, Any]:
    """Return what `--json` prints of a replay: all but its offsets and its list of records.

    died: whether its process died before the replay ended.
    """
    about = asdict(entry.about)
    del about["start"], about["stop"], about["records"]
    state = asdict(entry.state)
    del state["done"]
    current = {
        "status": "died" if died else entry.status,
        "wish": entry.request,
        "share": round(entry.share, 4),
    }
    return {**about, **state, **current}
