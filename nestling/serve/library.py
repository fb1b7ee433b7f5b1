"""The memories of all namespaces: rows in the registry, and files with unique names."""

import contextlib
import math
import os
import re
import secrets
import shutil
import sqlite3
import threading
import time
from collections.abc import Generator, Sequence
from pathlib import Path
from typing import Any, NamedTuple

from nestling.continual import compare
from nestling.continual import memory as forms
from nestling.continual.file import MemoryFile, read_memory, write_memory
from nestling.core.error import UserError
from nestling.core.level import Level
from nestling.data.lock import locked
from nestling.report.boxes import Box, times
from nestling.report.levels import clock
from nestling.serve.database import Database
from nestling.serve.errors import Refused
from nestling.serve.keys import check_name
from nestling.serve.model import Served

OPEN = ("waiting", "running", "cancelling")  # states of an unfinished job


class Memory(NamedTuple):
    """A memory in a namespace."""

    number: int
    space: str
    id: str
    version: int  # number of changes to its content
    created: float
    file: Path

    @property
    def before(self) -> Path:
        """The file from before the running job; exists only during one."""
        return self.file.with_suffix(".before")

    @property
    def known(self) -> Path:
        """The file with its current content: during a job, the one from before."""
        return self.before if self.before.exists() else self.file

    @property
    def last(self) -> Path:
        """The file from before the last document, if that cannot be removed otherwise."""
        return self.file.with_suffix(".last")

    @property
    def key(self) -> str:
        """The key of its weights in the cache."""
        return f"{self.number}.{self.version}"


class Library:
    """All memories of a server. A caller can reach only those of its namespace."""

    def __init__(self, database: Database, folder: Path, served: Served, most: int):
        self.database, self.folder, self.served, self.most = database, folder, served, most
        folder.mkdir(parents=True, exist_ok=True)
        self._locks: dict[int, threading.Lock] = {}
        self._guard = threading.Lock()

    def list(self, space: str) -> list[Memory]:
        """The memories of a namespace, oldest first."""
        rows = self.database.all("SELECT * FROM memories WHERE space = ? ORDER BY number", [space])
        return [self._of(row) for row in rows]

    def find(self, space: str, name: str) -> Memory:
        """A memory in a namespace; memories of other namespaces count as missing."""
        row = self.database.one("SELECT * FROM memories WHERE space = ? AND id = ?", [space, name])
        if row is None:
            raise Refused(404, "there is no such memory", "memory_not_found", param="memory")
        return self._of(row)

    def numbered(self, number: int) -> Memory | None:
        """A memory by its number, if it still exists."""
        row = self.database.one("SELECT * FROM memories WHERE number = ?", [number])
        return None if row is None else self._of(row)

    def _of(self, row: sqlite3.Row) -> Memory:
        name = row["file"]
        assert re.fullmatch("[0-9a-f]{32}", name)
        return Memory(
            row["number"],
            row["space"],
            row["id"],
            row["version"],
            row["created"],
            self.folder / f"{name}.memory",
        )

    # new ones

    def create(self, space: str, name: str | None) -> Memory:
        """Create an empty memory."""
        with self._new(space, name) as file:
            self.served.teacher.fork().save(file)
        return self._made(file)

    def fork(self, one: Memory, name: str | None) -> Memory:
        """Create an independent copy; if the memory is being written, from before."""
        with self._new(one.space, name) as file:
            try:
                shutil.copyfile(one.before, file)
            except FileNotFoundError:
                shutil.copyfile(one.file, file)
        return self._made(file)

    def merge(self, some: Sequence[Memory], name: str | None) -> Memory:
        """Create a memory that merges several; incompatible ones are refused."""
        memories = [_now(one) for one in some]
        for one, memory in zip(some, memories, strict=True):
            if memory.about.get("waiting"):
                raise Refused(409, f"{one.id} has an unfinished study; wait for its job")
        merged = forms.merge(memories)
        with self._new(some[0].space, name) as file:
            write_memory(file, merged)
        return self._made(file)

    def take_in(self, space: str, name: str | None, draft: Path) -> Memory:
        """Create a memory from a validated file, which is moved."""
        with self._new(space, name) as file:
            os.replace(draft, file)
        return self._made(file)

    def _made(self, file: Path) -> Memory:
        row = self.database.one("SELECT * FROM memories WHERE file = ?", [file.stem])
        assert row is not None
        return self._of(row)

    @contextlib.contextmanager
    def _new(self, space: str, name: str | None) -> Generator[Path]:
        """Create a row for a memory whose file is written within this context."""
        name = check_name(name or f"memory-{secrets.token_hex(4)}", "id of a memory")
        token = secrets.token_hex(16)
        file = self.folder / f"{token}.memory"
        try:
            self._room(space, name)
            yield file
            with self.database.transaction():
                self._room(space, name)  # check again: another request may have been faster
                self.database.change(
                    "INSERT INTO memories (space, id, file, created) VALUES (?, ?, ?, ?)",
                    [space, name, token, time.time()],
                )
        except BaseException:
            file.unlink(missing_ok=True)
            raise

    def _room(self, space: str, name: str) -> None:
        there = self.list(space)
        if any(one.id == name for one in there):
            raise Refused(409, "a memory with this id already exists; choose another")
        if len(there) >= self.most:
            raise Refused(409, f"there are {self.most} memories already; delete one")

    # changes

    @contextlib.contextmanager
    def held(self, one: Memory, *, wait: bool = False) -> Generator[None]:
        """Lock a memory against changes; with ``wait``, wait for it; otherwise a memory in use
        raises Refused.
        """
        with self._guard:
            lock = self._locks.setdefault(one.number, threading.Lock())
        if not lock.acquire(blocking=wait):
            raise Refused(409, "this memory is being written; wait for its job or cancel it")
        try:
            with locked(one.file, "nestling serve"):
                yield
        finally:
            lock.release()

    def _free(self, one: Memory) -> None:
        states = ", ".join("?" * len(OPEN))
        if self.database.one(
            f"SELECT 1 FROM jobs WHERE memory = ? AND state IN ({states})", [one.number, *OPEN]
        ):
            raise Refused(409, "this memory has a job; wait for its end or cancel it")

    def delete(self, one: Memory) -> None:
        """Delete a memory, its file and its jobs."""
        with self.held(one):
            self._free(one)
            self.database.change("DELETE FROM memories WHERE number = ?", [one.number])
            for file in (one.file, one.before, one.last):
                file.unlink(missing_ok=True)

    def undo(self, one: Memory) -> str:
        """Forget the document learned last; returns its name."""
        with self.held(one):
            self._free(one)
            memory = read_memory(one.file)
            if memory.about.get("studied"):
                left, name = forms.forgotten(memory, None)
                write_memory(one.file, left)
            elif one.last.exists():
                name = _last_name(memory)
                os.replace(one.last, one.file)
            else:
                raise Refused(409, "there is no document to undo")
            self.touch(one)
        return name

    def touch(self, one: Memory) -> None:
        """Record that a memory has changed."""
        self.database.change(
            "UPDATE memories SET version = version + 1 WHERE number = ?", [one.number]
        )


def _now(one: Memory) -> MemoryFile:
    """The contents of a memory; if it is being written, from before."""
    try:
        return read_memory(one.known)
    except UserError:
        return read_memory(one.file)  # the job ended in between


def compared(one: Memory, other: Memory) -> dict[str, Any]:
    """The documents that only one of two memories has learned, and how their levels differ."""
    first, second = _now(one), _now(other)
    only = compare.documents_apart(first, second)
    levels = [
        {"level": row.level, "first": row.first, "second": row.second, "between": row.between}
        for row in compare.diff(first, second)
    ]
    return {
        "object": "comparison",
        "memories": [one.id, other.id],
        "documents": {one.id: only[0], other.id: only[1]},
        "levels": levels,
    }


def boxes(about: dict[str, Any]) -> list[dict[str, str]]:
    """The levels of a memory as nested boxes, slow to fast: what, when, and how often."""
    studied, read = len(about.get("studied", ())), sum(one[3] for one in about["documents"])
    found = [Box("the model's weights", "as they were trained", "never here")]
    for record in about["levels"]:
        level = Level(name=forms.level_name(record), period=record["period"] or math.inf)
        found.append(Box(level.name, clock(level), times(record["writes"])))
    if studied or not about["levels"]:
        found.append(Box("what study writes", "with every document", times(studied)))
    found.append(Box("the context", "every token", f"{read:,} tokens, then emptied"))
    return [one._asdict() for one in found]


def _last_name(memory: MemoryFile) -> str:
    documents = memory.about["documents"]
    return documents[-1][0] if documents else ""


def told(one: Memory) -> dict[str, Any]:
    """A memory as an entry of a list."""
    return {
        "id": one.id,
        "object": "memory",
        "created": int(one.created),
        "version": one.version,
        "bytes": one.file.stat().st_size if one.file.exists() else 0,
    }


def shown(one: Memory) -> dict[str, Any]:
    """A memory with the documents it has read and studied."""
    about = read_memory(one.file).about
    studied = {record["sha256"]: record for record in about.get("studied", ())}
    documents = []
    for name, digest, tokens, read in about["documents"]:
        record = studied.get(digest)
        documents.append(
            {
                "name": name,
                "tokens": tokens,
                "read": read,
                "studied": record is not None,
                "questions": [
                    {"question": question, "answer": answer}
                    for question, answer, *_ in (record or {}).get("questions", ())
                    if answer
                ],
                "figures": (record or {}).get("figures"),
            }
        )
    levels = [
        {"level": forms.level_name(level), "writes": level["writes"]} for level in about["levels"]
    ]
    found = {"documents": documents, "levels": levels, "boxes": boxes(about)}
    return {**told(one), **found}
