"""DuckDB files in which a consumer caches what it has read from the topics.

Kafka is the store of record and each file is a cache: it can be deleted at any time. A file that is
missing, damaged or out of date is rebuilt. A file that cannot be written is replaced by a database
in memory, for example on a read-only disk, or when another process uses the file.
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
    import pyarrow

MEMORY_MB = 256
log = logging.getLogger(__name__)


class CacheDatabase:
    """One DuckDB connection to some files of a folder. For one thread at a time.

    folder: where the files are; None: all data is in memory, for as long as the object lives.
    what:   what the files hold, for messages ("the index of delivered records").
    spill:  where a query puts data that does not fit into memory; None: such a query fails.
    memory: how many megabytes DuckDB may use.
    threads: how many threads a query may use.
    error:  the base class of all errors that DuckDB raises.
    too_small: the error that DuckDB raises when a query needs more than `memory`.
    con:    the connection.
    """

    def __init__(
        self,
        folder: Path | None,
        what: str,
        spill: Path | None = None,
        *,
        memory: int = MEMORY_MB,
        threads: int = 1,
    ) -> None:
        import duckdb

        self._duckdb = duckdb
        self.error: type[Exception] = duckdb.Error
        self.too_small: type[Exception] = duckdb.OutOfMemoryException
        self._folder = folder
        self._what = what
        self.con: duckdb.DuckDBPyConnection = duckdb.connect(":memory:")
        self.con.execute(f"SET threads = {threads}")
        self.con.execute(f"SET memory_limit = '{memory}MB'")
        self.con.execute("SET enable_progress_bar = false")
        self.con.execute(f"SET temp_directory = {_quoted(spill or '')}")

    @property
    def version(self) -> str:
        """DuckDB's version. The results of `hash` differ between versions."""
        return self._duckdb.__version__

    def close(self) -> None:
        """Close all files."""
        self.con.close()

    def rows(self, query: str) -> list[Any]:
        """Run a query and return its rows."""
        return self.con.execute(query).fetchall()

    def open(self, name: str, file: str, is_usable: Callable[[], bool]) -> bool:
        """Attach a file under a name, or a database in memory. Return whether it is a file.

        file:      the file's name in the folder.
        is_usable: creates the tables that are missing, and returns whether the content can be used.
                   If not, the file is deleted and created again.
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
        """Close one file.

        An error is only logged: the next process that opens the file reads on from the topic.
        """
        try:
            self.con.execute(f"DETACH {name}")
        except self._duckdb.Error as error:
            log.info("a file of %s was not closed properly: %s", self._what, type(error).__name__)

    @contextmanager
    def given(self, name: str, rows: pyarrow.Table) -> Iterator[None]:
        """Make rows available to queries as a table of this name, inside the block."""
        self.con.register(name, rows)
        try:
            yield
        finally:
            self.con.unregister(name)

    @contextmanager
    def transaction(self) -> Iterator[None]:
        """Write all changes of the block to the files, or none of them."""
        self.con.execute("BEGIN")
        try:
            yield
            self.con.execute("COMMIT")
        except BaseException:
            try:
                self.con.execute("ROLLBACK")
            except self._duckdb.Error:  # the failure has ended the transaction
                log.debug("the transaction had already ended")
            raise

    @contextmanager
    def faults(self) -> Iterator[None]:
        """Raise DuckDB's errors about the disk as `RetryLater` or `Stop`."""
        try:
            yield
        except self._duckdb.OutOfMemoryException:
            raise RetryLater(
                f"{self._folder}: {self._what} need more than the memory that DuckDB may use here, "
                "and more than the free disk space in this folder; free disk space"
            ) from None
        except self._duckdb.IOException as error:
            raise RetryLater(
                f"{self._folder}: DuckDB cannot write {self._what} ({type(error).__name__}); free "
                "disk space in this folder"
            ) from None
        except (self._duckdb.FatalException, self._duckdb.InternalException) as error:
            raise Stop(
                f"{self._folder}: DuckDB failed ({type(error).__name__}); delete this folder "
                "and start again: it is rebuilt from Kafka"
            ) from None

    def _attach(self, name: str, where: str, is_usable: Callable[[], bool]) -> bool:
        """Attach a file and return whether it can be used.

        Raises DuckDB's `IOException` when another connection uses the file.
        """
        try:
            self.con.execute(f"ATTACH {_quoted(where)} AS {name}")
        except self._duckdb.IOException as error:
            if "lock" in str(error).lower():  # else the file is damaged, or no DuckDB file
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
