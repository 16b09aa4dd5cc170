"""Batches of rows into Canvas through its SIS import API, and what Canvas said about them.

Sources: Canvas LMS API documentation, "SIS Imports" (create, show, the states of an import,
errors_attachment), "SIS Import Errors" (row: the header is row 1), "Throttling" (429, or 403 with
"Rate Limit Exceeded"); instructure/canvas-lms, app/models/sis_batch.rb (`write_all_errors`: the
report is CSV with the columns sis_import_id, file, message, row).

* A batch is one zip in one POST; Canvas runs the imports of an account one after another. It is
  watched until it has ended, so the next batch is sent only then.
* An import that goes on for longer than `poll_seconds` is `RetryLater`; the next call of `deliver`
  with the same rows goes on watching it and sends nothing.
* When the answer to the POST is lost, the zip is sent again. That is harmless: each row says how a
  thing stands, not what to do to it, and nothing newer is sent in between.
* A row that Canvas did not take is a `Refusal` of its message. The text is Canvas's, with the
  row's values replaced by their columns' names, as it may tell names and addresses.
* An import that failed as a whole is tried again, and after `MOST_FAILURES` in a row it is `Stop`:
  somebody must look at it in Canvas. One that was aborted, was so by a person: `Stop`.
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
    """A `bus.delivery.Redelivery` into one Canvas account, and `Unlocked`."""

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
        self._begun: tuple[bytes, int] | None = None  # digest of the zip, id of its import
        self._failures = 0
        self._canvas = CanvasApi(url, token)

    def resume(self, cluster: str, partitions: Iterable[Position]) -> Mapping[Position, int]:
        """Canvas keeps no offsets: the group's own are used."""
        return {}

    def deliver(self, batch: Batch) -> Sequence[Refusal]:
        """Import the batch and wait for its end; what Canvas refused of it."""
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
        """Import it as `deliver` does. Canvas keeps no offsets, so nobody can say here whether what
        the live consumer has just sent is newer: `unlocked`."""
        return self.deliver(batch)

    def settle(self) -> None:
        """Nothing is ever put off."""

    def release(self, partitions: Iterable[Position]) -> None:
        """Nothing is kept between batches."""

    def close(self) -> None:
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
        """The import when it has ended; `RetryLater` when it takes too long."""
        waited, pause = 0.0, FIRST_POLL
        while True:
            state = self._canvas.ask("GET", f"{self._path}/{number}")
            if state.get("workflow_state") in (*ENDED_WELL, *FAILED, *UNDONE):
                return state
            if waited >= self._poll_seconds:
                raise RetryLater(
                    f"Canvas is still at work on SIS import {number} "
                    f"({state.get('progress') or 0} %); looking again later",
                    after=LONGEST_POLL,
                )
            pause = min(pause, self._poll_seconds - waited)
            self._sleep(pause)
            waited += pause
            pause = min(pause * 1.5, LONGEST_POLL)

    def _judge(self, number: int, state: dict[str, Any]) -> None:
        """Go on only with an import that has ended well."""
        ended = state["workflow_state"]
        if ended in UNDONE:
            raise Stop(
                f"SIS import {number} was {ended} in Canvas; find out why, then start this "
                "consumer again: it sends the same rows once more"
            )
        if ended in FAILED:
            self._begun = None
            self._failures += 1
            said = f"Canvas could not run SIS import {number} ({ended})"
            if self._failures >= MOST_FAILURES:
                raise Stop(
                    f"{said}, the {self._failures}th in a row; see it in Canvas under Admin > SIS "
                    "Import, or ask Canvas's support, then start this consumer again"
                )
            raise RetryLater(f"{said}; sending it again")
        self._failures = 0

    def _refusals(self, state: dict[str, Any], found: list[Sheet]) -> list[Refusal]:
        """Canvas's errors and warnings on rows, as refusals of their messages.

        What names no row that was sent (a warning on the whole file) is counted in the log.
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
            log.warning("canvas reports that name no row", sis_import=state["id"], count=unplaced)
        return [
            Refusal(sent[name].sheet.messages[at], f"Canvas, {name}: {reason}")
            for (name, at), reason in reasons.items()
        ]

    def _report(self, state: dict[str, Any]) -> Iterator[tuple[str, str, int | None]]:
        """All (file, message, row) of an import; row None where Canvas does not say."""
        attached = (state.get("errors_attachment") or {}).get("url")
        if attached:
            for line in csv.DictReader(
                io.StringIO(self._canvas.file(attached).decode("utf-8-sig"))
            ):
                row = line.get("row") or ""
                yield line.get("file") or "", line.get("message") or "", int(row) if row else None
            return
        # No report: what the import itself tells, which is only the first of each.
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
        """Which rows a report is about: by its number, else by the ids that its text names."""
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
        """The text with the row's values, but for ids, replaced by the names of their columns."""
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
