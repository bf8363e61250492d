"""The memory of a monitor: what it estimated and how it was, in an SQLite file.

The file is in WAL mode and every record is a transaction of its own that is on disk when the call
returns, so a killed process or a lost supply costs at most the record in flight. Records are in
the order they were written, by a number that only grows; a clock that jumps changes their times,
not their order. Several monitors may write to one file, and others read it at the same time.
"""

from __future__ import annotations

import json
import os
import sqlite3
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from edgewf.errors import EdgewfError

SCHEMA = 1
"""Counted up with every change of the tables; `_MIGRATIONS[n]` leads from n to n + 1."""

KEPT = {"runs": 10_000, "estimates": 500_000, "health": 100_000}
"""Records kept, the newest: years at an estimate a quarter of an hour and a report a minute."""

_CREATE = """
CREATE TABLE runs (id INTEGER PRIMARY KEY AUTOINCREMENT, time REAL NOT NULL, record TEXT NOT NULL);
CREATE TABLE estimates (id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL,
    time REAL NOT NULL, accuracy REAL, record TEXT NOT NULL);
CREATE TABLE health (id INTEGER PRIMARY KEY AUTOINCREMENT, run INTEGER NOT NULL,
    time REAL NOT NULL, record TEXT NOT NULL);
CREATE INDEX estimates_time ON estimates (time);
"""
_MIGRATIONS: dict[int, str] = {0: _CREATE}

_BUSY_S = 10.0  # that another process may hold the file
_RETRY_S = 0.01
_SWEEP = 256  # records of a table between two looks for old ones


@dataclass(frozen=True)
class Stored:
    """A record of the past.

    Attributes:
        id: its number; those of later records of the same kind are greater.
        run: number of the monitor's run that wrote it.
        record: what `to_json` of an estimate or of a health gave.
    """

    id: int
    run: int
    record: dict[str, Any]


class Store:
    """A file of estimates and health.

    Args:
        path: of the file; made if it is missing, unless `read_only`.
        read_only: for readers, which may lack the right to write.

    Raises:
        EdgewfError: no such file or folder, a damaged file, one of a newer version, or no right.
            Every method raises it, naming the file, when the disk is full or the file is lost.
    """

    def __init__(self, path: str | Path, *, read_only: bool = False) -> None:
        self.path = Path(path)
        if read_only and not self.path.is_file():
            raise EdgewfError(f"no such file: {path}; `edgewf monitor --store {path}` writes it")
        with self._explained():
            self._database = sqlite3.connect(
                f"{self.path.absolute().as_uri()}?{self._mode(read_only)}",
                uri=True,
                timeout=_BUSY_S,
                isolation_level=None,
                check_same_thread=False,  # one thread at a time, see Listener
            )
            try:
                self._open(read_only)
            except BaseException:
                self._database.close()
                raise

    def begin_run(self, when: float, settings: dict[str, Any]) -> int:
        """Note the start of a monitor with what it was set to; return the number of the run."""
        return self._add("runs", "time, record", (when, _text(settings)))

    def add_estimate(self, run: int, estimate: dict[str, Any]) -> int:
        """Keep `Estimate.to_json()`; return its number."""
        values = (run, estimate["time"], estimate["accuracy"], _text(estimate))
        return self._add("estimates", "run, time, accuracy, record", values)

    def add_health(self, run: int, health: dict[str, Any]) -> int:
        """Keep `Health.to_json()`; return its number."""
        return self._add("health", "run, time, record", (run, health["time"], _text(health)))

    def estimates(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[Stored]:
        """Return estimates in the order they were written.

        Args:
            since, until: seconds since the epoch, of the estimates; both included.
            last: at most so many, the newest.
        """
        return self._read("estimates", since, until, last)

    def health(
        self, since: float | None = None, until: float | None = None, last: int | None = None
    ) -> list[Stored]:
        """Return reports of health, as `estimates` does."""
        return self._read("health", since, until, last)

    def runs(self) -> dict[int, dict[str, Any]]:
        """Return what each run was set to, with its start as "time", by number."""
        with self._explained():
            rows = self._database.execute("SELECT id, time, record FROM runs ORDER BY id")
            return {number: {**json.loads(text), "time": when} for number, when, text in rows}

    def close(self) -> None:
        """Close the file. A second call does nothing."""
        self._database.close()

    def __enter__(self) -> Store:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()

    def _mode(self, read_only: bool) -> str:
        """Return how SQLite shall open the file."""
        if not read_only:
            return "mode=rwc"
        # Readers of a file in WAL mode make two files beside it, unless a writer's are there. Where
        # they cannot (a disk mounted read-only) and need not (nobody writes), none are asked for.
        log = self.path.with_name(f"{self.path.name}-wal")
        alone = not log.exists() and not os.access(self.path.absolute().parent, os.W_OK)
        return "mode=ro&immutable=1" if alone else "mode=ro"

    def _open(self, read_only: bool) -> None:
        self._database.execute("BEGIN")  # both from one moment: another may be making the tables
        version, tables = self._version(), self._tables()
        self._database.execute("COMMIT")
        if version > SCHEMA:
            raise EdgewfError(
                f"{self.path}: written by a newer edgewf (schema {version}, this one knows "
                f"{SCHEMA}): upgrade edgewf"
            )
        if version == 0 and (read_only or tables):
            raise EdgewfError(f"{self.path}: no store of edgewf: give another file")
        if read_only:
            return
        self._write_ahead()
        self._database.execute("PRAGMA synchronous = FULL")
        if version < SCHEMA:
            self._migrate()

    def _write_ahead(self) -> None:
        """Set WAL mode, which stays with the file.

        Of two that set it at once SQLite tells one that the file is locked, and does not wait.
        """
        deadline = time.monotonic() + _BUSY_S

        def done() -> bool:
            try:
                self._database.execute("PRAGMA journal_mode = WAL")
            except sqlite3.OperationalError as error:
                if "locked" not in str(error) or time.monotonic() > deadline:
                    raise
                return False
            return True

        while not done():
            time.sleep(_RETRY_S)

    def _migrate(self) -> None:
        self._database.execute("BEGIN EXCLUSIVE")
        try:
            for number in range(self._version(), SCHEMA):  # another process may have been first
                for statement in _MIGRATIONS[number].split(";"):
                    self._database.execute(statement)
                self._database.execute(f"PRAGMA user_version = {number + 1}")
            self._database.execute("COMMIT")
        except BaseException:
            self._database.execute("ROLLBACK")
            raise

    def _version(self) -> int:
        return int(self._database.execute("PRAGMA user_version").fetchone()[0])

    def _tables(self) -> int:
        return int(self._database.execute("SELECT count(*) FROM sqlite_master").fetchone()[0])

    def _add(self, table: str, columns: str, values: tuple[Any, ...]) -> int:
        marks = ", ".join("?" * len(values))
        with self._explained(), self._transaction():
            cursor = self._database.execute(
                f"INSERT INTO {table} ({columns}) VALUES ({marks})", values
            )
            number = int(cursor.lastrowid or 0)
            # By its number in the table: whoever writes it, restarted or not, and whatever else is
            # written in between, each table has its turn. In one transaction, so that a record
            # whose sweep failed was not written, and may be written again.
            if number % _SWEEP == 0:
                self._sweep(table, number)
        return number

    def _sweep(self, table: str, newest: int) -> None:
        """Drop the oldest. By number, not by age: a clock that jumps must not empty the store."""
        self._database.execute(f"DELETE FROM {table} WHERE id <= ?", (newest - KEPT[table],))

    @contextmanager
    def _transaction(self) -> Iterator[None]:
        """Write all or nothing; waits for others that write."""
        self._database.execute("BEGIN IMMEDIATE")
        try:
            yield
            self._database.execute("COMMIT")
        except BaseException:
            if self._database.in_transaction:  # SQLite ends it itself when the disk is full
                self._database.execute("ROLLBACK")
            raise

    def _read(
        self, table: str, since: float | None, until: float | None, last: int | None
    ) -> list[Stored]:
        query = f"SELECT id, run, record FROM {table}"
        bounds = {"time >= ?": since, "time <= ?": until}
        given = {text: value for text, value in bounds.items() if value is not None}
        if given:
            query += f" WHERE {' AND '.join(given)}"
        query += " ORDER BY id DESC LIMIT ?"
        limit = -1 if last is None else last
        with self._explained():
            rows = self._database.execute(query, (*given.values(), limit)).fetchall()
        return [Stored(number, run, json.loads(text)) for number, run, text in reversed(rows)]

    @contextmanager
    def _explained(self) -> Iterator[None]:
        """Turn errors of SQLite into one line that names the file and the fix."""
        try:
            yield
        except sqlite3.Error as error:
            raise EdgewfError(f"{self.path}: {error}: {_advice(str(error))}") from error


def _advice(error: str) -> str:
    hints = {
        "unable to open": "check that its folder exists and may be written",
        "readonly": "check the rights of the file and its folder, and that its disk may be written",
        "full": "make room on its disk",
        "disk I/O": "make room on its disk, and check that the disk is well",
        "locked": "another program holds it: end that, or give each monitor a file of its own",
        "not a database": "it is something else: give another file",
        "malformed": "it is damaged: move it away, or recover it with `sqlite3 FILE .recover`",
    }
    return next((hint for text, hint in hints.items() if text in error), "give another file")


def _text(record: dict[str, Any]) -> str:
    return json.dumps(record, allow_nan=False, separators=(",", ":"))
