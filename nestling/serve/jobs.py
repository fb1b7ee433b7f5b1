"""The queue of documents to learn, in the registry, which survives a restart."""

import json
import secrets
import sqlite3
import time
from typing import Any, NamedTuple

from nestling.serve.database import Database
from nestling.serve.errors import Refused
from nestling.serve.library import OPEN, Memory

WAITING, RUNNING, CANCELLING = OPEN
DONE, FAILED, CANCELLED = "done", "failed", "cancelled"
AMONG = f"({', '.join('?' * len(OPEN))})"


class Job(NamedTuple):
    """A document to learn or already learned."""

    number: int
    id: str
    memory: int  # its number
    name: str  # of the document
    text: str | None  # until the job ends; None for a job that consolidates the memory
    state: str
    done: int  # steps
    steps: int
    message: str
    figures: dict[str, float] | None
    created: float
    ended: float | None
    about: str = ""  # the subject of the document, if the client gave it

    @property
    def over(self) -> bool:
        """Whether the job has ended."""
        return self.state not in OPEN

    def told(self, memory: str) -> dict[str, Any]:
        """The job as a client sees it."""
        return {
            "id": self.id,
            "object": "job",
            "memory": memory,
            "name": self.name,
            "about": self.about,
            "state": self.state,
            "done": self.done,
            "steps": self.steps,
            "message": self.message,
            "figures": self.figures,
            "created": int(self.created),
            "ended": None if self.ended is None else int(self.ended),
        }


class Jobs:
    """The queue of a server."""

    def __init__(self, database: Database, most: int):
        self.database, self.most = database, most

    def add(self, memory: Memory, name: str, text: str | None, about: str = "") -> Job:
        """Append a job to the queue."""
        with self.database.transaction():
            [waiting] = self.database.all(
                "SELECT count(*) FROM jobs JOIN memories ON memories.number = jobs.memory"
                f" WHERE space = ? AND state IN {AMONG}",
                [memory.space, *OPEN],
            )
            if waiting[0] >= self.most:
                raise Refused(429, f"{self.most} jobs are waiting already", "queue_full", wait=30)
            number = f"job-{secrets.token_hex(8)}"
            self.database.change(
                "INSERT INTO jobs (id, memory, name, text, about, state, created)"
                " VALUES (?, ?, ?, ?, ?, ?, ?)",
                [number, memory.number, name, text, about, WAITING, time.time()],
            )
        return self.find(memory, number)

    def find(self, memory: Memory, number: str) -> Job:
        """A job of a memory."""
        row = self.database.one(
            "SELECT * FROM jobs WHERE memory = ? AND id = ?", [memory.number, number]
        )
        if row is None:
            raise Refused(404, "there is no such job of this memory", "job_not_found")
        return _job(row)

    def list(self, memory: Memory) -> list[Job]:
        """The jobs of a memory, oldest first."""
        rows = self.database.all(
            "SELECT * FROM jobs WHERE memory = ? ORDER BY number", [memory.number]
        )
        return [_job(row) for row in rows]

    def next(self) -> Job | None:
        """The next job: one that was interrupted, or the oldest that waits."""
        row = self.database.one(
            f"SELECT * FROM jobs WHERE state IN {AMONG} ORDER BY state = ?, number",
            [*OPEN, WAITING],
        )
        return None if row is None else _job(row)

    def left(self) -> int:
        """The number of jobs that have not ended."""
        [[count]] = self.database.all(f"SELECT count(*) FROM jobs WHERE state IN {AMONG}", OPEN)
        return count

    def begin(self, job: Job) -> None:
        """Mark a waiting job as running."""
        self.database.change(
            "UPDATE jobs SET state = ? WHERE number = ? AND state = ?",
            [RUNNING, job.number, WAITING],
        )

    def progress(self, job: Job, done: int, steps: int) -> None:
        """Record the progress of a job."""
        self.database.change(
            "UPDATE jobs SET done = ?, steps = ? WHERE number = ?", [done, steps, job.number]
        )

    def end(self, job: Job, state: str, message: str = "", figures: Any = None) -> None:
        """End a job and delete its text."""
        self.database.change(
            "UPDATE jobs SET state = ?, message = ?, figures = ?, ended = ?, text = NULL,"
            " about = '' WHERE number = ?",
            [
                state,
                message,
                None if figures is None else json.dumps(figures),
                time.time(),
                job.number,
            ],
        )

    def cancel(self, job: Job) -> bool:
        """Cancel a job, or mark a running one for it; returns whether it had not started."""
        with self.database.transaction():
            dropped = self.database.change(
                "UPDATE jobs SET state = ?, ended = ?, text = NULL, about = ''"
                " WHERE number = ? AND state = ?",
                [CANCELLED, time.time(), job.number, WAITING],
            )
            self.database.change(
                "UPDATE jobs SET state = ? WHERE number = ? AND state = ?",
                [CANCELLING, job.number, RUNNING],
            )
        return bool(dropped)


def _job(row: sqlite3.Row) -> Job:
    found = {name: row[name] for name in Job._fields}
    found["figures"] = None if row["figures"] is None else json.loads(row["figures"])
    return Job(**found)
