"""Publish an extract: read, validate, compare, guard, publish, remember.

Every source that reads whole extracts publishes through this module. A source provides only `read`,
which fills a `bus.source.Staging`.

A kill at any moment loses nothing and duplicates nothing. Events of committed transactions are in
the topics. When the source starts again, Kafka aborts the transaction that was open, and the
comparison then finds exactly the changes that are not in the topics.
"""

from __future__ import annotations

import re
import shutil
from collections.abc import Callable, Iterable, Iterator
from contextlib import closing, contextmanager, suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import TYPE_CHECKING
from urllib.parse import quote

import duckdb
from filelock import FileLock, Timeout

from bus.errors import RetryLater, Stop
from bus.ingest import diff, guard, ownership, position, quarantine, row_hashes, snapshot
from bus.ingest.columns import encodable
from bus.ingest.integrity import MOST, unchecked, validate, without_id
from bus.ingest.record_difference import differences
from bus.ingest.report import ExtractDryRun, Report
from bus.ingest.workspace import Workspace
from bus.kafka import topics
from bus.kafka.cloudevents import Change, now
from bus.kafka.known_ids import known_ids
from bus.kafka.transactions import TRANSACTION_RECORDS, Publisher
from bus.local.machine import disk_left_mb
from bus.observe.telemetry import span
from bus.registry import subjects
from bus.settings import Settings
from bus.source import Fault, Staging
from bus.standard import KINDS

if TYPE_CHECKING:
    import pyarrow

Read = Callable[[Staging], None]
Progress = Callable[[str], None]

SOURCE_NAME = r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)*"
LONGEST_NAME = 100

BATCH = 10_000
"""How many records are encoded at once."""


class MassWithdrawal(Stop):
    """The guard (`bus.ingest.guard`) stopped an extract. A person may allow the extract."""


def produce(
    settings: Settings,
    source: str,
    read: Read,
    *,
    mass_withdrawal_share: float | None = None,
    allow_mass_withdrawal: bool = False,
    polled: bool = False,
    progress: Progress = lambda _: None,
    rules: str = "",
) -> Report:
    """Publish what an extract changes compared with what this source last published.

    source:   the source's name, without a leading slash: "oneroster-csv", "oneroster-csv/west". See
              `SOURCE_NAME`.
    read:     fills the staging.
    mass_withdrawal_share: overrides `[mass_withdrawal] share`: the share of a kind's records, 0 to
              1. If the extract withdraws more than the guard allows (see `bus.ingest.guard`), the
              run stops before anything is published.
    allow_mass_withdrawal: publish whatever the guard says.
    polled:   whether `read` continues from `staging.position` and moves it. The new position is
              published in the same transaction as the last events.
    progress: called at each step with a text for a person.
    rules:    the version of the source's own rules. If a new release of the source reads the same
              files differently, it must pass a new version. All rows are then checked again.

    Raises `Stop` when a person must act; nothing was published. Raises `RetryLater` when Kafka or
    the registry does not answer, or when the extract has a kind that is not registered yet. Some
    transactions may then be published already. Run it again: the next run publishes only the rest.
    """
    valid_name(source)
    ids = subjects.lookup(settings)
    topics.ensure(settings, [topics.topic(settings, k) for k in ids])
    topics.ensure(settings, [topics.quarantine(settings)])
    with (
        _held(work := _work(settings, source), "lock", source),
        _fresh(work.with_name(f"{work.name}.extract")) as folder,
        span(f"produce {source}") as traceparent,
        _explain_disk_errors(folder),
        Workspace.open(folder) as workspace,
    ):
        _remove_dead_dry_run(work)
        run = _Run(settings, f"/{source}", ids, workspace, rules, traceparent, progress)
        return run.take(source, read, mass_withdrawal_share, allow_mass_withdrawal, polled)


def dry_run(
    settings: Settings,
    source: str,
    read: Read,
    *,
    mass_withdrawal_share: float | None = None,
    allow_mass_withdrawal: bool = False,
    polled: bool = False,
    progress: Progress = lambda _: None,
    rules: str = "",
    most: int = 0,
) -> ExtractDryRun:
    """Return what `produce` would do with an extract, without publishing or remembering anything.

    It creates no topic. It leaves the cache as it is, and works on a copy of it. All its files are
    in one folder, which is removed at the end. After a kill, the next run removes the folder.

    most: the maximum number of differences to return of each kind and change.

    Raises as `produce` does. If the guard would stop the run, that is part of the result, not an
    error.
    """
    valid_name(source)
    ids = subjects.lookup(settings)
    with (
        _held(work := _work(settings, source), "dry-run.lock", source),
        _fresh(work.with_name(f"{work.name}.dry-run")) as folder,
        span(f"dry run {source}"),
        _explain_disk_errors(folder),
        Workspace.open(folder) as workspace,
    ):
        cache = folder / "cache.duckdb"
        with _held(work, "lock", source):
            snapshot.copy(settings, f"/{source}", cache)
        run = _Run(settings, f"/{source}", ids, workspace, rules, None, progress)
        report, _ = run.compared(source, read, polled, cache)
        objection = "" if allow_mass_withdrawal else run.objection(report, mass_withdrawal_share)
        found = differences(workspace, report.records, most) if most else []
        return ExtractDryRun(report, objection, found)


def _work(settings: Settings, source: str) -> Path:
    """Return the beginning of the paths of a source's working files."""
    work = settings.home / "work" / settings.topic_prefix
    work.mkdir(parents=True, exist_ok=True, mode=0o700)
    return work / quote(source, safe="")


@contextmanager
def _held(work: Path, lock: str, source: str) -> Iterator[None]:
    """Hold a lock of this source. Raises `RetryLater` at once if another process holds it."""
    try:
        held = FileLock(work.with_name(f"{work.name}.{lock}")).acquire(timeout=0)
    except Timeout:
        raise RetryLater(
            f"another `bus produce` of the source {source} is running; wait until it ends. Give "
            "this one a different --source only if it reads another SIS: rows that one source has "
            "published go to quarantine when another source sends them"
        ) from None
    with held:
        yield


def _remove_dead_dry_run(work: Path) -> None:
    """Remove the folder that a killed dry run left behind, and nothing else."""
    with suppress(Timeout), FileLock(work.with_name(f"{work.name}.dry-run.lock")).acquire(0):
        shutil.rmtree(work.with_name(f"{work.name}.dry-run"), ignore_errors=True)


def valid_name(source: str) -> None:
    """Raise `Stop` if this is not a valid name of a source."""
    if not re.fullmatch(SOURCE_NAME, source, re.ASCII) or len(source) > LONGEST_NAME:
        raise Stop(
            "the source name is not valid; use letters, digits, dots, dashes and underscores, in "
            "parts that start with a letter or digit and are separated by slashes "
            f"(oneroster-csv/west), {LONGEST_NAME} characters at most"
        )


@contextmanager
def _explain_disk_errors(folder: Path) -> Iterator[None]:
    """Turn DuckDB's errors about a full or failing disk into `RetryLater`.

    DuckDB's own text is left out, because it may quote data.
    """
    try:
        yield
    except (
        duckdb.IOException,
        duckdb.FatalException,
        duckdb.TransactionException,
        duckdb.OutOfMemoryException,
    ) as error:
        raise RetryLater(
            f"could not write or read the working files in {folder.parent} "
            f"({type(error).__name__}; its disk has {disk_left_mb(folder)} MB left); nothing is "
            "lost; free disk space and run it again"
        ) from None


@contextmanager
def _fresh(folder: Path) -> Iterator[Path]:
    """Provide an empty folder that only its owner may read, and remove it at the end.

    What a killed run left in the folder is removed first.
    """
    shutil.rmtree(folder, ignore_errors=True)
    folder.mkdir(mode=0o700)
    try:
        yield folder
    finally:
        shutil.rmtree(folder, ignore_errors=True)


@dataclass(slots=True)
class _Run:
    """One run with one extract, see `produce`."""

    settings: Settings
    source: str
    ids: dict[str, int]
    workspace: Workspace
    rules: str
    traceparent: str | None
    progress: Progress

    def take(self, name: str, read: Read, share: float | None, allow: bool, polled: bool) -> Report:
        """Publish an extract, update the cache and return the report."""
        workspace, staging = self.workspace, self.workspace.staging
        time = now()
        # Create it before the topics are read: it aborts the transaction of an earlier process.
        publisher = Publisher(
            self.settings, self.source, self.ids, time=time, traceparent=self.traceparent
        )
        try:
            report, begin = self.compared(name, read, polled)
            if not allow and (objection := self.objection(report, share)):
                raise MassWithdrawal(objection)
            self.progress(f"publishing {report.published:,} events")
            new_position = staging.position if staging.position != begin else None
            faults = quarantine.compare(
                workspace, self.settings, self.source, report.faults, staging.coverage
            )
            publisher.unchecked = unchecked(workspace)
            self._publish(publisher, report, faults, time, new_position)
        finally:
            publisher.close()
        if not publisher.replaced:  # otherwise the next run reads the topics
            snapshot.remember(workspace, self.settings, list(report.records))
            quarantine.remember(workspace, faults)
        return report

    def compared(
        self, name: str, read: Read, polled: bool, copy: Path | None = None
    ) -> tuple[Report, str]:
        """Read and compare an extract.

        Returns what would be published, and the source's position before this read ("" if it is not
        polled).

        copy: a copy of the cache, for a dry run. Nothing is then written that outlives the run.
        """
        workspace, staging = self.workspace, self.workspace.staging
        self.progress("looking up what was last published")
        snapshot.attach(workspace, self.settings, self.source, self.rules, copy)
        # Both return the last position; only `position.read` creates a missing topic.
        last = position.last if copy else position.read
        begin = staging.position = last(self.settings, self.source) if polled else ""
        self.progress("reading")
        read(staging)
        subjects.require(self.settings, self.ids, staging.coverage)
        own = len(staging.faults)
        for raw in map(workspace.raw, staging.coverage):
            workspace.require(raw)
            workspace.sql(f"ALTER TABLE {raw} ADD COLUMN IF NOT EXISTS sourcedId VARCHAR")
        self.progress("checking")
        row_hashes.set_apart(workspace)
        self._view_known()
        quarantined = validate(workspace, self._known_elsewhere)
        unreadable = {
            kind: _left_out(staging.faults[:own], kind) + _without_id(staging.faults[own:], kind)
            for kind in staging.coverage
        }
        if copy:
            others = ownership.others(self.settings, self.source)
        else:
            others = ownership.announce(self.settings, self.source, staging.coverage)
        self._quarantine_foreign_rows(others, quarantined)
        self.progress("comparing")
        return self._compare(name, quarantined, unreadable), begin

    def _view_known(self) -> None:
        """Make `known_KIND`: the published records to which records may refer.

        These include records that an earlier run withdrew. If the extract has all records of a
        kind, they exclude the records that are not in the extract, because this run withdraws them.
        """
        workspace = self.workspace
        for kind in KINDS:
            here = ""
            if workspace.staging.coverage.get(kind) == "bulk":
                workspace.require(gone := workspace.gone(kind))
                here = f"ANTI JOIN {gone} g ON b.sourcedId = g.sourcedId"
            workspace.sql(
                f"CREATE TEMP VIEW {workspace.known(kind)} AS SELECT b.sourcedId "
                f"FROM {workspace.published(kind)} b {here}"
            )

    def _known_elsewhere(self, kind: str, ids: list[str]) -> set[str]:
        return known_ids(self.settings, kind, ids, other_than=self.source)

    def _quarantine_foreign_rows(self, others: set[str], quarantined: dict[str, int]) -> None:
        """Put rows whose ids belong to another source into quarantine, see `bus.ingest.ownership`.

        others: the kinds that other sources publish.
        """
        workspace, staging = self.workspace, self.workspace.staging
        for kind in others.intersection(staging.coverage):
            record, before = workspace.record(kind), workspace.published(kind)
            workspace.require(record, before)
            rows = workspace.sql(
                f"SELECT sourcedId, _file, _line FROM {record} r WHERE NOT EXISTS "
                f"(FROM {before} b WHERE b.sourcedId = r.sourcedId) ORDER BY _line"
            )
            ids = ownership.taken(
                self.settings, kind, (row[0] for row in rows), other_than=self.source
            )
            staging.faults += ownership.faults(kind, (row for row in rows if row[0] in ids), MOST)
            workspace.sql(
                f"DELETE FROM {record} WHERE sourcedId IN (SELECT unnest(?::VARCHAR[]))",
                [sorted(ids)],
            )
            quarantined[kind] = quarantined.get(kind, 0) + len(ids)

    def _compare(
        self, name: str, quarantined: dict[str, int], unreadable: dict[str, int]
    ) -> Report:
        staging = self.workspace.staging
        report = Report(name, faults=staging.faults)
        for kind in KINDS:
            if kind not in staging.coverage:
                continue
            coverage = staging.coverage[kind]
            if coverage == "bulk" and unreadable[kind]:
                # An unreadable row may be of a record that seems to be missing in the extract.
                coverage = "delta"
                report.put_off[kind] = (
                    f"{unreadable[kind]} rows could not be read, so {kind} records that are "
                    "missing in the extract are not withdrawn; correct the rows in the SIS and "
                    "send the extract again"
                )
            changes = diff.compare(self.workspace, kind, coverage)
            report.records[kind] = {
                "created": changes.created,
                "updated": changes.updated,
                "withdrawn": changes.withdrawn,
                "unchanged": changes.unchanged,
                "quarantined": quarantined.get(kind, 0),
            }
            report.active_before[kind] = changes.active_before
        return report

    def objection(self, report: Report, share: float | None) -> str:
        """Return why the guard would stop the run, with the numbers, or "" if it would not."""
        limits = self.settings.mass_withdrawal
        if share is not None:
            limits = limits.model_copy(update={"share": share})
        broken = []
        for kind, counts in report.records.items():
            active_before = report.active_before[kind]
            if objection := guard.objection(limits, counts["withdrawn"], active_before):
                broken.append(
                    f"{counts['withdrawn']:,} of {active_before:,} {kind} records ({objection})"
                )
        if not broken:
            return ""
        would = "\n".join(
            f"  {kind}: {counts['created']:,} created, {counts['updated']:,} updated, "
            f"{counts['withdrawn']:,} withdrawn, {counts['unchanged']:,} unchanged"
            for kind, counts in report.records.items()
        )
        return (
            f"this extract would withdraw {', '.join(broken)}; the extract may be incomplete. "
            f"Nothing was published. The result would have been:\n{would}\n"
            "If this is correct, run it again with --allow-mass-withdrawal"
        )

    def _publish(
        self,
        publisher: Publisher,
        report: Report,
        faults: quarantine.FaultChanges,
        time: str,
        new_position: str | None,
    ) -> None:
        """Publish all changes, kind by kind in dependency order.

        For each kind, first withdraw the relationships that moved: records of which a reference or
        the role has changed, such as an enrollment that is now of another student. Their old state
        is withdrawn and their new state is published as created or updated. Then publish new and
        changed records. After all kinds, publish the other withdrawals, in reverse order.

        new_position: the source's new position, which is published with the last events.
        """
        kinds = list(report.records)
        self.workspace.require(*map(self.workspace.change, kinds))
        steps: list[tuple[str, Change, str]] = []
        for kind in kinds:
            steps += [
                (kind, "withdrawn", "_moved"),
                (kind, "created", "_change = 'created'"),
                (kind, "updated", "_change = 'updated' AND NOT _moved"),
            ]
        steps += [(kind, "withdrawn", "_change = 'withdrawn'") for kind in reversed(kinds)]
        pending = (
            (kind, change, records)
            for kind, change, where in steps
            for records in self._records(kind, where)
        )
        faults_published = not faults
        with closing(pending):
            following = next(pending, None)
            while following or not faults_published or new_position is not None:
                ahead = [following] if following else []
                batch = list(_upto(chain(ahead, pending), TRANSACTION_RECORDS))
                following = next(pending, None)
                with publisher.transaction():
                    for kind, change, records in batch:
                        publisher.publish(kind, change, records)
                    if not faults_published:
                        quarantine.publish_changes(
                            publisher, self.settings, self.source, faults, time
                        )
                    if not following and new_position is not None:
                        position.publish(publisher, self.settings, self.source, new_position)
                        new_position = None
                faults_published = True

    def _records(self, kind: str, where: str) -> Iterator[pyarrow.RecordBatch]:
        """Return the records of a change in the extract's order, in batches of `BATCH`."""
        change = self.workspace.change(kind)
        return self.workspace.batches(
            f"SELECT {encodable(kind, 'c')} FROM {change} c WHERE {where}", BATCH
        )


def _upto(
    pending: Iterator[tuple[str, Change, pyarrow.RecordBatch]], most: int
) -> Iterator[tuple[str, Change, pyarrow.RecordBatch]]:
    """Yield items until they have `most` records together or more.

    The last item is yielded whole. So the sum can exceed `most` by almost one item (`BATCH`).
    """
    number = 0
    for item in pending:
        number += item[2].num_rows
        yield item
        if number >= most:
            return


def _left_out(own: Iterable[Fault], kind: str) -> int:
    """Return how many rows of this kind, or of an unknown kind, the source could not read."""
    return sum(1 for f in own if f.fatal and f.line > 1 and f.kind in (kind, ""))


def _without_id(found: Iterable[Fault], kind: str) -> int:
    """Return how many rows of a kind the checks left out because the rows have no usable id."""
    return sum(
        1
        for f in found
        if f.fatal and f.kind in (kind, "") and f.column == "sourcedId" and without_id(f)
    )
