"""The registry of a server: keys, memories and jobs in one SQLite file."""

import contextlib
import sqlite3
import threading
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any

from nestling.core.error import UserError

SCHEMA = """
CREATE TABLE keys (
    id TEXT PRIMARY KEY, name TEXT NOT NULL UNIQUE, hash BLOB NOT NULL, space TEXT NOT NULL,
    scopes TEXT NOT NULL, created REAL NOT NULL
);
CREATE TABLE memories (
    number INTEGER PRIMARY KEY AUTOINCREMENT, space TEXT NOT NULL, id TEXT NOT NULL,
    file TEXT NOT NULL UNIQUE, version INTEGER NOT NULL DEFAULT 0, created REAL NOT NULL,
    UNIQUE (space, id)
);
CREATE TABLE jobs (
    number INTEGER PRIMARY KEY AUTOINCREMENT, id TEXT NOT NULL UNIQUE,
    memory INTEGER NOT NULL REFERENCES memories ON DELETE CASCADE,
    name TEXT NOT NULL, text TEXT, state TEXT NOT NULL, done INTEGER NOT NULL DEFAULT 0,
    steps INTEGER NOT NULL DEFAULT 0, message TEXT NOT NULL DEFAULT '', figures TEXT,
    created REAL NOT NULL, ended REAL
);
CREATE INDEX waiting ON jobs (state, number);
"""
CHANGES = ("ALTER TABLE jobs ADD COLUMN about TEXT NOT NULL DEFAULT ''",)  # of format 1, 2, ...
FORMAT = 1 + len(CHANGES)


class Database:
    """A connection shared by the threads of a process; each call is a transaction."""

    def __init__(self, path: Path):
        self.path = path
        self._lock = threading.RLock()
        try:
            path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
            self._open = sqlite3.connect(
                path, timeout=30, isolation_level=None, check_same_thread=False
            )
            self._open.row_factory = sqlite3.Row
            self._open.execute("PRAGMA journal_mode = WAL")
            self._open.execute("PRAGMA foreign_keys = ON")
            path.chmod(0o600)
            self._make()
        except (OSError, sqlite3.Error) as error:
            raise UserError(f"cannot keep a registry in {path}: {error}") from error

    def _make(self) -> None:
        with self.transaction():
            [version] = self.all("PRAGMA user_version")[0]
            if version > FORMAT:
                raise UserError(f"{self.path} was written by a newer nestling; upgrade this one")
            if version < FORMAT:
                first = SCHEMA.split(";") if version == 0 else ()
                for statement in (*first, *CHANGES[max(version, 1) - 1 :]):
                    self._open.execute(statement)
                self._open.execute(f"PRAGMA user_version = {FORMAT}")

    @contextlib.contextmanager
    def transaction(self) -> Generator[None]:
        """A transaction: all or nothing."""
        with self._lock:
            self._open.execute("BEGIN IMMEDIATE")
            try:
                yield
            except BaseException:
                self._open.execute("ROLLBACK")
                raise
            self._open.execute("COMMIT")

    def all(self, statement: str, values: Sequence[Any] = ()) -> list[sqlite3.Row]:
        """The rows of a query."""
        with self._lock:
            return self._open.execute(statement, tuple(values)).fetchall()

    def one(self, statement: str, values: Sequence[Any] = ()) -> sqlite3.Row | None:
        """The first row of a query, if there is one."""
        return next(iter(self.all(statement, values)), None)

    def change(self, statement: str, values: Sequence[Any] = ()) -> int:
        """The number of rows that a statement changed."""
        with self._lock:
            return self._open.execute(statement, tuple(values)).rowcount

    def close(self) -> None:
        """Close the file."""
        with self._lock:
            self._open.close()
