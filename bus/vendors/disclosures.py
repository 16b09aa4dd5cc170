"""Writes and reads the record of disclosures: who received what about which student.

The record may say more than what was disclosed, but never less. `entered` returns when Kafka has
stored the entry, and only then may the projection send data about these students. After a crash,
the record may have the same entry twice. That changes no answer: if a student enters an agreement
twice without leaving it, the first entry counts.

See `disclosure_chain` for the entries, `disclosed_students` for the commitments, `disclosure_log`
for the lock between processes, and `disclosure_questions` for the answers.
"""

from __future__ import annotations

import random
import time
from collections.abc import Callable, Iterator, Mapping, Sequence
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from tomllib import TOMLDecodeError, loads
from typing import TYPE_CHECKING, Any, Protocol

from bus.errors import RetryLater, Stop
from bus.kafka import topics
from bus.kafka.reader import scan
from bus.vendors.disclosed_students import DisclosedStudents, Row, new_row
from bus.vendors.disclosure_chain import (
    HASH_LENGTH,
    ChainHead,
    ChainProblem,
    Entry,
    decoded,
    head_of,
    head_text,
    linked,
    moment_text,
    verify,
)
from bus.vendors.disclosure_log import DisclosureLog, NotTheWriter

if TYPE_CHECKING:
    from bus.settings import Settings
    from bus.vendors.disclosure_questions import Question
    from bus.vendors.scope import Scope

ENTRY_STUDENTS = 1_000
"""The largest number of students in one entry: about 67 KB."""
TRANSACTION_STUDENTS = 20_000
"""The largest number of students in one transaction."""
PATIENCE = 60.0
"""Seconds for which a writer takes turns with others before it gives up."""
FIRST_WAIT, LONGEST_WAIT = 0.05, 2.0
HEAD_FILE = "disclosures.head"
"""The file with the head of the chain, in the folder of the agreements."""

Content = Mapping[str, Any]
Contents = tuple[list[Content], list[Row]]
Once = tuple[str, str]
"""What an entry says, and the agreement."""


class AppliedAgreement(Protocol):
    """What the record needs of an applied agreement.

    fingerprint: the SHA-256 of the agreement's canonical JSON, in hexadecimal.
    """

    @property
    def fingerprint(self) -> str: ...  # noqa: D102


class DisclosureWriter:
    """Appends entries to the record. Use it from one thread only.

    Several processes may have a writer. They take turns: each appends in short transactions, and
    takes over from the other when it needs to. A writer stays ready until another one takes over,
    so a writer that is alone does not start again each time.

    Every method returns when Kafka has stored the entry. It raises `RetryLater` if Kafka does not
    answer, and `Stop` if a person must act first. Even then, the entry may have been stored. Call
    the method again: an entry that is there twice counts once.

    Times are aware `datetime`s. `name` is the name of an agreement.

    log: the topics; for tests.
    """

    def __init__(
        self,
        settings: Settings,
        log: DisclosureLog | None = None,
        *,
        sleep: Callable[[float], None] = time.sleep,
    ) -> None:
        self._log = log or DisclosureLog(settings)
        self._sleep = sleep
        self._ready = False  # whether this writer has taken over and read the chain to its end
        self._head = ChainHead()
        self._students: DisclosedStudents | None = None
        self._once: set[Once] | None = None  # entries that exist only once; None: not read yet

    def __enter__(self) -> DisclosureWriter:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def close(self) -> None:
        """Close the clients."""
        self._log.close()

    def scope_changed(self, applied: AppliedAgreement, scope: Scope, at: datetime) -> None:
        """Record that a vendor receives what this scope says from now on.

        Call it before the scope takes effect, and only when it has changed: each call is an entry.
        """
        agreement = scope.agreement
        content = {
            "what": "scope",
            "at": moment_text(at),
            "agreement": agreement.name,
            "vendor": agreement.vendor,
            "purpose": agreement.purpose,
            "basis": agreement.basis.value,
            "document": agreement.document.sha256,
            "categories": list(agreement.share.categories),
            "fields": {kind: list(about.fields) for kind, about in scope.kinds.items()},
            "identifiers": agreement.identifiers.value,
            "from": agreement.from_.isoformat(),
            "until": agreement.until.isoformat(),
            "renews": agreement.renews,
            "subprocessors": [one.name for one in agreement.subprocessors],
            "fingerprint": applied.fingerprint,
        }
        self._append(lambda: ([content], []))

    def entered(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Record that a vendor receives data about these students from now on.

        Call it before the first of the data is sent.

        students: their real ids.
        """
        base = {"what": "entered", "at": moment_text(at), "agreement": name}
        for group in _groups(students, TRANSACTION_STUDENTS):
            self._append(partial(self._about, base, group, new=True))

    def left(self, name: str, students: Sequence[str], at: datetime) -> None:
        """Record that a vendor receives no more data about these students.

        Call it after the last of the data was sent or removed. Students whom the record does not
        know are left out.

        students: their real ids.
        """
        base = {"what": "left", "at": moment_text(at), "agreement": name}
        for group in _groups(students, TRANSACTION_STUDENTS):
            self._append(partial(self._about, base, group, new=False), known=group)

    def ended(self, name: str, at: datetime, why: str = "") -> None:
        """Record that a vendor receives no more data: the agreement ended, or was revoked.

        All students have left the agreement with it. A second call adds no entry.

        why: the reason of a revocation; empty if the agreement ended by its date.
        """
        self._append_once(
            {
                "what": "revoked" if why else "ended",
                "at": moment_text(at),
                "agreement": name,
                "why": why,
            }
        )

    def rekeyed(self, name: str, at: datetime, times: int) -> None:
        """Record that a vendor receives the same records under new ids from now on.

        times: how many times the ids have been changed, this change included. Entries with the same
               number are about the same change.
        """
        content = {"what": "rekeyed", "at": moment_text(at), "agreement": name, "times": times}
        self._append(lambda: ([content], []))

    def deleted(self, name: str, at: datetime, objects: Mapping[str, Sequence[str]]) -> None:
        """Record what the bus deleted of a vendor's data. A second call adds no entry.

        objects: names by what they are: {"topics": […], "groups": […], "users": […]}.
        """
        self._append_once(
            {
                "what": "deleted",
                "at": moment_text(at),
                "agreement": name,
                "objects": {what: sorted(names) for what, names in objects.items()},
            }
        )

    def attested(self, name: str, at: datetime, by: str, statement: str = "") -> None:
        """Record that a vendor attested that it deleted what it had received.

        A second call adds no entry.

        by:        who attested it, at the vendor.
        statement: where the statement is, its SHA-256, or its text.
        """
        self._append_once(
            {
                "what": "attested",
                "at": moment_text(at),
                "agreement": name,
                "by": by,
                "statement": statement,
            }
        )

    def access(
        self, by: str, why: str, question: Question, about: str = "", student: str | None = None
    ) -> None:
        """Record that somebody asks the record a question. Call it before the answer is shown.

        Raises `Stop` without a reason.

        by:       who asks: user@machine.
        question: which of the questions of `disclosure_questions`.
        about:    the vendor or agreement that is asked about.
        student:  the student who is asked about. The entry has the student's commitment, or none
                  if the record does not know the student.
        """
        _needs(why)
        base = {
            "what": "access",
            "at": moment_text(datetime.now(UTC)),
            "by": by,
            "why": why,
            "question": question,
            "about": about,
        }

        def contents() -> Contents:
            known = self._table().commitments(student) if student is not None else []
            return [{**base, "students": sorted(known)}], []

        self._append(contents, known=[] if student is None else [student])

    def erase(self, students: Sequence[str], by: str, why: str) -> int:
        """Erase students: nobody can find out any more which students the entries are about.

        The chain stays valid. Returns how many of them the record knew. Raises `Stop` without a
        reason. A student who is in a cohort must leave it first. Otherwise the record no longer
        says whom the rest of that disclosure is about.
        """
        _needs(why)
        base = {"what": "erased", "at": moment_text(datetime.now(UTC)), "by": by, "why": why}
        count = 0

        def contents() -> Contents:
            nonlocal count
            table = self._table()
            known = [student for student in dict.fromkeys(students) if student in table]
            count = len(known)
            rows = [row for student in known for row in table.tombstones(student)]
            return ([{**base, "count": count}] if known else []), rows

        self._append(contents, known=students)
        return count

    def head(self) -> ChainHead:
        """Return the head of the chain, with what other processes have written."""
        self._ready = False
        self._append(lambda: ([], []))
        return self._head

    def students(self) -> DisclosedStudents:
        """Return the table of students, with what other processes have written."""
        self._ready = False
        self._append(lambda: ([], []))
        return self._table()

    def _append_once(self, content: Content) -> None:
        """Append an entry, unless the record has the same entry about the agreement.

        The first call reads the whole record.
        """

        def contents() -> Contents:
            # If another process appends after this check, Kafka refuses the entry.
            if self._once is None:
                self._once = _all_said(self._log.all_entries())
            return [] if _said(content) in self._once else [content], []

        self._append(contents)

    def _table(self) -> DisclosedStudents:
        """Return the table of students, read to its end. Only a ready writer may ask for it."""
        table = DisclosedStudents() if self._students is None else self._students
        for key, value in self._log.students() if self._students is None else ():
            table.take(key, value)
        self._students = table
        return table

    def _about(self, base: Content, students: Sequence[str], *, new: bool) -> Contents:
        """Return the entries about a group of students, and the salts of those who are new."""
        table = self._table()
        rows = [new_row(one) for one in students if one not in table] if new else []
        drawn = DisclosedStudents(rows)
        named = sorted(
            commitment
            for one in students
            for commitment in (table if one in table else drawn).commitments(one)
        )
        entries: list[Content] = [
            {**base, "students": part} for part in _groups(named, ENTRY_STUDENTS)
        ]
        return entries, rows

    def _append(self, contents: Callable[[], Contents], *, known: Sequence[str] = ()) -> None:
        """Append entries, whatever other processes append at the same time.

        contents: returns the entries without number and link. It is called again after another
                  process has written, because the table of students may have changed.
        known:    students whom `contents` leaves out if the table lacks them.
        """
        if self._ready and not all(one in self._table() for one in known):
            # Another process may have added them. A write would show that, but what is left out is
            # not written.
            self._ready = False
        until = time.monotonic() + PATIENCE
        attempt, tried = 0, b""
        while True:
            try:
                # What was tried last may have been committed although Kafka's answer was lost.
                if not self._ready and tried in self._catch_up():
                    return
                entries, rows = contents()
                if not entries:
                    return
                head, values = self._head, []
                for content in entries:
                    value, head = linked(content, head)
                    values.append((head.number, value))
                tried = values[0][1]
                self._log.append(values, rows)
            except NotTheWriter:
                self._ready = False
                if time.monotonic() > until:
                    raise RetryLater(
                        "could not write the record of disclosures: other processes write it "
                        f"without a break for {PATIENCE:g} s; try again"
                    ) from None
                # A random wait, so that two writers do not take over from each other forever.
                self._sleep(random.uniform(0, min(LONGEST_WAIT, FIRST_WAIT * 2**attempt)))
                attempt += 1
                continue
            except BaseException:
                self._ready = False
                raise
            self._head = head
            for key, row in rows:
                self._table().take(key, row)
            if self._once is not None:
                self._once.update(map(_said, entries))
            return

    def _catch_up(self) -> list[bytes]:
        """Become the only writer, and read what others have written. Returns the new entries."""
        self._log.take_over()
        found = self._log.entries()
        if found and (head := head_of(found[-1])) is not None:
            self._head = head
        if self._students is not None:
            for key, value in self._log.students():
                self._students.take(key, value)
        if self._once is not None:
            self._once |= _all_said(found)
        self._ready = True
        return found


def entries(settings: Settings) -> list[bytes | None]:
    """Return the bytes of all entries of the record, in order.

    Empty if there is no record yet. Raises `RetryLater` if Kafka does not answer.
    """
    return [message.value() for message in scan(settings, topics.disclosures(settings))]


def ask(
    settings: Settings,
    by: str,
    why: str,
    question: Question,
    about: str = "",
    student: str | None = None,
) -> tuple[list[Entry], DisclosedStudents]:
    """Record that somebody asks a question, and return the data for the answer.

    See `DisclosureWriter.access` for the arguments and errors, and `disclosure_questions` for the
    answers. If the question cannot be recorded, this raises an error, so there is no answer.

    Returns the entries, in order, and the table of students.
    """
    with DisclosureWriter(settings) as writer:
        writer.access(by, why, question, about, student)
        return decoded_entries(entries(settings)), writer.students()


def decoded_entries(values: Sequence[bytes | None]) -> list[Entry]:
    """Return the entries of these bytes. What is no entry is left out; `verify` reports it."""
    return [entry for value in values if (entry := decoded(value)) is not None]


def chain_head(values: Sequence[bytes | None]) -> ChainHead:
    """Return the head of a chain: its last entry, whatever is wrong before it."""
    heads = (head_of(value) for value in reversed(values))
    return next((head for head in heads if head is not None), ChainHead())


def head(settings: Settings) -> ChainHead:
    """Return the head of the record. Raises `RetryLater` if Kafka does not answer."""
    return chain_head(entries(settings))


def read_head(path: Path) -> ChainHead | None:
    """Return the head in a file, or None if there is no such file. Raises `Stop` if it is damaged.

    path: the file, such as `agreements/disclosures.head`.
    """
    try:
        table = loads(path.read_text("utf-8"))
        found = ChainHead(int(table["number"]), str(table["sha256"]), str(table["at"]))
    except FileNotFoundError:
        return None
    except OSError as error:
        raise Stop(f"{path} cannot be read ({error.strerror})") from None
    except (TOMLDecodeError, UnicodeDecodeError, KeyError, TypeError, ValueError):
        found = ChainHead(-1)
    if found.number < 0 or len(found.sha256) != HASH_LENGTH:
        raise Stop(
            f"{path} is not the head of a record of disclosures; restore it from the repository of "
            "the agreements"
        )
    return found


def keep_head(settings: Settings, path: Path) -> ChainHead:
    """Write the head of the record into a file, and return it.

    First checks the record against the head that the file has. Raises `Stop`, and leaves the file
    as it is, if something is wrong: a new head would hide it.
    """
    values = entries(settings)
    if problems := verify(values, read_head(path)):
        raise Stop(
            f"the record of disclosures is damaged ({described(problems)}), so {path} keeps the "
            "old head; run `bus vendors verify`, and find out who changed the record"
        )
    found = chain_head(values)
    part = path.with_name(f"{path.name}.part")
    part.write_text(head_text(found), "utf-8")
    part.replace(path)
    return found


def described(problems: Sequence[ChainProblem]) -> str:
    """Return problems of a chain in one line: the first, and how many more."""
    more = f"; and {len(problems) - 1:,} more" if len(problems) > 1 else ""
    return problems[0].text + more


def _said(entry: Content) -> Once:
    return entry["what"], str(entry.get("agreement"))


def _all_said(values: Sequence[bytes | None]) -> set[Once]:
    """Return what these entries say about which agreements."""
    return {_said(entry) for entry in decoded_entries(values)}


def _groups(items: Sequence[str], size: int) -> Iterator[list[str]]:
    """Yield the different items in groups of at most this size."""
    left = iter(dict.fromkeys(items))
    while group := list(islice(left, size)):
        yield group


def _needs(why: str) -> None:
    if not why.strip():
        raise Stop("the record of disclosures asks for a reason, which it keeps: add --why")
