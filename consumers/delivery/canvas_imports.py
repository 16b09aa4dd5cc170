"""Delivery of batches to Canvas through its SIS import API, with the errors that Canvas reports.

Sources: Canvas LMS API documentation, "SIS Imports" (create, show, the states of an import,
errors_attachment), "SIS Import Errors" (row: the header is row 1), "Throttling" (429, or 403 with
"Rate Limit Exceeded"); instructure/canvas-lms, app/models/sis_batch.rb (`write_all_errors`: the
report is CSV with the columns sis_import_id, file, message, row).

* A batch is one zip in one POST. Canvas runs the imports of an account one after another. The
  delivery watches the import until it ends. The next batch is sent only then.
* If an import takes longer than `poll_seconds`, the delivery raises `RetryLater`. The next call of
  `deliver` with the same rows continues to watch the import and sends nothing.
* If the answer to the POST is lost, the zip is sent again. This is harmless: each row holds a state
  and not a change, and nothing newer is sent in between.
* A row that Canvas does not accept becomes a `Refusal` of its message. The reason is Canvas's text.
  It may have names and addresses, so the row's values in it are replaced by the names of their
  columns.
* An import that fails as a whole is tried again. After `MOST_FAILURES` failures in a row the
  delivery raises `Stop`, because a person must look at the import in Canvas. If a person aborted an
  import, the delivery raises `Stop` at once.
"""

from __future__ import annotations

import csv
import hashlib
import io
import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import cached_property
from typing import Any

import structlog
from pydantic import SecretStr

from bus.delivery import Batch, Position, Refusal, Row
from bus.errors import RetryLater, Stop
from consumers.delivery.canvas_api import CanvasApi
from consumers.delivery.csv_zip import Layout, Sheet, pack, sheets

log = structlog.get_logger(__name__)
ENDED_WELL = ("imported", "imported_with_messages")
FAILED = ("failed", "failed_with_messages")
UNDONE = ("aborted", "restored", "partially_restored", "restoring")
MOST_FAILURES = 3
FIRST_POLL, LONGEST_POLL = 0.5, 10.0
WORD = re.compile(r"[^\s\"'(),:;\[\]{}]+")


class CanvasImports:
    """A `bus.delivery.Redelivery` into one Canvas account; it is `Unlocked`."""

    unlocked = True

    def __init__(
        self,
        url: str,
        token: SecretStr,
        layout: Layout,
        *,
        account: str = "self",
        override_sis_stickiness: bool = False,
        poll_seconds: float = 60.0,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._layout = layout
        self._path = f"/api/v1/accounts/{account}/sis_imports"
        self._query = {"import_type": "instructure_csv", "extension": "zip"}
        if override_sis_stickiness:
            self._query["override_sis_stickiness"] = "true"
        self._poll_seconds = poll_seconds
        self._sleep = sleep
        self._begun: tuple[bytes, int] | None = None  # the zip's digest and the import's id
        self._failures = 0
        self._canvas = CanvasApi(url, token)

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Return no offsets, because Canvas stores none; the consumer uses those of its group."""
        return {}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Import the batch, wait for the end of the import, and return what Canvas refused."""
        found = sheets(batch.parts, self._layout)
        if not found:
            return ()
        packed = pack(found, self._layout)
        digest = hashlib.sha256(packed).digest()
        if self._begun is None or self._begun[0] != digest:
            self._begun = (digest, self._send(packed))
        state = self._watch(self._begun[1])
        self._judge(self._begun[1], state)
        refusals = self._refusals(state, found)
        self._begun = None
        return refusals

    def redeliver(
        self, batch: Batch, replay: str, seen: Mapping[Position, int]
    ) -> Sequence[Refusal]:
        """Import the batch as `deliver` does.

        Canvas stores no offsets. So the delivery cannot know whether the live consumer has just
        sent something newer (`unlocked`).
        """
        return self.deliver(batch)

    def settle(self) -> None:
        """Do nothing: `deliver` defers nothing."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Do nothing: the delivery keeps nothing between batches."""

    def close(self) -> None:
        """Close the connections."""
        self._canvas.close()

    def _send(self, packed: bytes) -> int:
        answer = self._canvas.ask(
            "POST",
            self._path,
            params=self._query,
            content=packed,
            headers={"Content-Type": "application/zip"},
        )
        return int(answer["id"])

    def _watch(self, number: int) -> dict[str, Any]:
        """Return the import after it has ended; raise `RetryLater` after `poll_seconds`."""
        waited, pause = 0.0, FIRST_POLL
        while True:
            state = self._canvas.ask("GET", f"{self._path}/{number}")
            if state.get("workflow_state") in (*ENDED_WELL, *FAILED, *UNDONE):
                return state
            if waited >= self._poll_seconds:
                raise RetryLater(
                    f"Canvas is still running SIS import {number} "
                    f"({state.get('progress') or 0} %); checking it again later",
                    after=LONGEST_POLL,
                )
            pause = min(pause, self._poll_seconds - waited)
            self._sleep(pause)
            waited += pause
            pause = min(pause * 1.5, LONGEST_POLL)

    def _judge(self, number: int, state: dict[str, Any]) -> None:
        """Raise `Stop` or `RetryLater` unless the import ended well."""
        ended = state["workflow_state"]
        if ended in UNDONE:
            raise Stop(
                f"SIS import {number} was {ended} in Canvas; find out why, then start this "
                "consumer again: it sends the same rows again"
            )
        if ended in FAILED:
            self._begun = None
            self._failures += 1
            said = f"Canvas could not run SIS import {number} ({ended})"
            if self._failures >= MOST_FAILURES:
                raise Stop(
                    f"{said}, failure {self._failures} in a row; look at it in Canvas under Admin "
                    "> SIS Import, or ask Canvas's support, then start this consumer again"
                )
            raise RetryLater(f"{said}; sending it again")
        self._failures = 0

    def _refusals(self, state: dict[str, Any], found: list[Sheet]) -> list[Refusal]:
        """Return refusals for the rows on which Canvas reported an error or a warning.

        A report that names none of the sent rows, such as a warning on a whole file, is only
        counted in the log.
        """
        if state["workflow_state"] == "imported" and not state.get("errors_attachment"):
            return []
        sent = {sheet.table.name: _Sent(sheet) for sheet in found}
        reasons: dict[tuple[str, int], str] = {}
        unplaced = 0
        for file, message, row in self._report(state):
            name = file.rsplit("/", 1)[-1]
            places = sent[name].places(message, row) if name in sent else []
            for at in places:
                reasons.setdefault((name, at), sent[name].without_values(message, at))
            unplaced += not places
        if unplaced:
            log.warning(
                "canvas reported errors or warnings that name no sent row",
                sis_import=state["id"],
                count=unplaced,
            )
        return [
            Refusal(sent[name].sheet.messages[at], f"Canvas, {name}: {reason}")
            for (name, at), reason in reasons.items()
        ]

    def _report(self, state: dict[str, Any]) -> Iterator[tuple[str, str, int | None]]:
        """Yield (file, message, row) of each error and warning; row may be None.

        Canvas does not give the row of each report.
        """
        attached = (state.get("errors_attachment") or {}).get("url")
        if attached:
            for line in csv.DictReader(
                io.StringIO(self._canvas.file(attached).decode("utf-8-sig"))
            ):
                row = line.get("row") or ""
                yield line.get("file") or "", line.get("message") or "", int(row) if row else None
            return
        # Without a report, the import itself lists only the first errors and warnings.
        for kind in ("processing_errors", "processing_warnings"):
            for file, message in state.get(kind) or ():
                yield file, message, None


class _Sent:
    """A file that was sent, to find the row that a report is about."""

    def __init__(self, sheet: Sheet) -> None:
        self.sheet = sheet
        self._ids = [column for column in sheet.table.key if column.endswith("_id")]

    @cached_property
    def _by_id(self) -> dict[str, list[int]]:
        found: dict[str, list[int]] = {}
        for at, row in enumerate(self.sheet.rows):
            found.setdefault(row[self._ids[-1]], []).append(at)
        return found

    def places(self, message: str, row: int | None) -> list[int]:
        """Return the indexes of the rows that a report is about.

        The row number decides. Without it, the ids that the message names decide.
        """
        rows = self.sheet.rows
        if row is not None:
            return [row - 2] if 2 <= row < len(rows) + 2 else []
        words = {word.rstrip(".") for word in WORD.findall(message)}
        return [
            at
            for word in words
            for at in self._by_id.get(word, ())
            if all(rows[at][column] in words for column in self._ids)
        ]

    def without_values(self, message: str, at: int) -> str:
        """Return the message with the row's values replaced by column names, except for the ids."""
        row: Row = self.sheet.rows[at]
        ids = {row[column] for column in self.sheet.table.key}
        values = [
            (value, column)
            for column, value in row.items()
            if value and value not in ids and column not in ("status", "role")
        ]
        for value, column in sorted(values, key=lambda pair: -len(pair[0])):
            word = rf"(?<!\w){re.escape(value)}(?!\w)"
            message = re.sub(word, f"<{column}>", message, flags=re.IGNORECASE)
        return message
