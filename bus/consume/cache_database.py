"""DuckDB files that hold what a consumer has learned from the topics.

Kafka is the store of record, so such a file is a cache: it may be deleted at any time. A file that
is missing, damaged or out of date is made anew. A file that cannot be written at all (a read-only
disk, another process that has it) is replaced by one in memory.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from bus.errors import RetryLater, Stop

if TYPE_CHECKING:
    import duckdb

MEMORY = "256MB"
log = logging.getLogger(__name__)


class CacheDatabase:
    """One connection with some files of a folder. For one thread at a time.

    folder: where the files are; None: all is in memory, for as long as the object lives.
    what:   what the files hold, for a person ("what stands of enrollment").
    spill:  where a query puts what memory cannot hold; None: such a query fails.
    error:  the base of all that DuckDB raises.
    """

    def __init__(self, folder: Path | None, what: str, spill: Path | None = None) -> None:
        import duckdb

        self._duckdb = duckdb
        self.error: type[Exception] = duckdb.Error
        self._folder = folder
        self._what = what
        self.con: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        self.con.execute("SET threads = 1")
        self.con.execute(f"SET memory_limit = '{MEMORY}'")
        self.con.execute("SET enable_progress_bar = false")
        self.con.execute(f"SET temp_directory = {_quoted(spill or '')}")

    @property
    def version(self) -> str:
        """DuckDB's version: `hash` gives other numbers in another one."""
        return self._duckdb.__version__

    def close(self) -> None:
        """Close all files."""
        self.con.close()

    def rows(self, query: str) -> list[Any]:
        """What a query finds."""
        return self.con.execute(query).fetchall()

    def open(self, name: str, file: str, is_usable: Callable[[], bool]) -> bool:
        """Attach a file of the folder under a name, or one in memory. Return whether it is a file.

        is_usable: makes the tables where they are not there, and says whether what is in them can
                   be used. If not, the file is deleted and made anew.
        """
        if self._folder is not None:
            path = self._folder / file
            for _ in range(2):
                try:
                    path.parent.mkdir(parents=True, exist_ok=True, mode=0o700)
                    if self._attach(name, str(path), is_usable):
                        return True
                    for each in (path, Path(f"{path}.wal")):
                        each.unlink(missing_ok=True)
                except (OSError, self._duckdb.IOException) as error:
                    log.info("%s is kept in memory: %s", self._what, type(error).__name__)
                    break
        self._attach(name, ":memory:", is_usable)
        return False

    def detach(self, name: str) -> None:
        """Close one file. An error is logged: who opens it next reads on from the topic."""
        try:
            self.con.execute(f"DETACH {name}")
        except self._duckdb.Error as error:
            log.info("a file of %s was not closed in order: %s", self._what, type(error).__name__)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """All of the block is in the files when it ends, or nothing of it."""
        self.con.execute("BEGIN")
        try:
            yield
            self.con.execute("COMMIT")
        except BaseException:
            try:
                self.con.execute("ROLLBACK")
            except self._duckdb.Error:  # what failed has ended the transaction
                log.debug("nothing to roll back")
            raise

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Raise what DuckDB says of the disk in the bus's terms: `RetryLater` or `Stop`."""
        try:
            yield
        except (self._duckdb.IOException, self._duckdb.OutOfMemoryException) as error:
            raise RetryLater(
                f"{self._folder}: DuckDB cannot write {self._what} ({type(error).__name__}); free "
                "some space there"
            ) from None
        except (self._duckdb.FatalException, self._duckdb.InternalException) as error:
            raise Stop(
                f"{self._folder}: DuckDB has failed ({type(error).__name__}); delete that folder "
                "and start again: it is made anew from Kafka"
            ) from None

    def _attach(self, name: str, where: str, is_usable: Callable[[], bool]) -> bool:
        """Attach a file; whether it can be used. Raises `IOException` where none can be."""
        try:
            self.con.execute(f"ATTACH {_quoted(where)} AS {name}")
        except self._duckdb.IOException as error:
            if "lock" in str(error).lower():  # else it is no such file, or a damaged one
                raise
            return False
        except self._duckdb.Error as error:
            if "already attached" in str(error):
                raise self._duckdb.IOException("in use") from None
            return False
        try:
            if is_usable():
                return True
        except self._duckdb.Error as error:
            log.debug("a file of %s is damaged: %s", self._what, type(error).__name__)
        self.con.execute(f"DETACH {name}")
        return False


def _quoted(text: object) -> str:
    """A text as SQL writes it."""
    return "'" + str(text).replace("'", "''") + "'"
