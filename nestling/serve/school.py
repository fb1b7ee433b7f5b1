"""The learning thread: one job after the other, which can be cancelled between two steps."""

import os
import threading
import time
from collections.abc import Callable
from dataclasses import asdict
from typing import Any

from nestling.continual.consolidate import Plan as Rest
from nestling.continual.consolidate import consolidate
from nestling.continual.learner import ContinualLearner
from nestling.continual.session import Session
from nestling.continual.study.plan import Plan
from nestling.continual.study.session import Studies
from nestling.continual.surprise import surprise
from nestling.core.error import UserError
from nestling.serve.feed import Feed
from nestling.serve.jobs import CANCELLED, CANCELLING, DONE, FAILED, Job, Jobs
from nestling.serve.library import Library, Memory
from nestling.serve.logs import failed
from nestling.serve.model import Served

Figures = dict[str, float]
AGAIN = 5.0  # seconds until a retry if the end of a job could not be recorded
COLOURED = 2000  # characters of a document whose surprise is reported
NOTED = 1.0  # seconds between two updates of a job's progress in the registry


class _Cancelled(Exception):
    """The job was cancelled: undo it."""


class _Stopped(Exception):
    """The server stops: the job resumes at the next start."""


class School:
    """Works through the queue in its own thread."""

    def __init__(self, served: Served, library: Library, jobs: Jobs, feed: Feed, plan: Plan):
        self.served, self.library, self.jobs, self.feed = served, library, jobs, feed
        self.plan = plan
        self.rest = Rest()  # how memories are consolidated
        self.ended: Callable[[str], None] = lambda state: None  # called when a job has ended
        self._changed = threading.Condition()
        self._cancel: set[int] = set()  # numbers of jobs
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="learning", daemon=True)

    def start(self) -> None:
        """Start working on the queue."""
        self._thread.start()

    def wake(self) -> None:
        """Signal that a job was added."""
        with self._changed:
            self._changed.notify()

    def stop(self) -> None:
        """Save the running job and stop; it resumes at the next start."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    def cancel(self, job: Job) -> None:
        """Cancel a job: the memory is restored to its state before it."""
        with self._changed:
            if self.jobs.cancel(job):
                self.feed.tell(job.id, {"state": CANCELLED})
                return
            self._cancel.add(job.number)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not self._stopping and (job := self.jobs.next()) is None:
                    self._changed.wait()
                if self._stopping:
                    return
                assert job is not None
                self.jobs.begin(job)
            memory = self.library.numbered(job.memory)
            if memory is None:
                continue
            try:
                self._do(job, memory)
            except Exception as error:  # the registry cannot be written: try the job again
                failed("registry", error)
                with self._changed:
                    self._changed.wait(AGAIN)

    def _do(self, job: Job, memory: Memory) -> None:
        try:
            with self.library.held(memory, wait=True):
                if (
                    job.state == CANCELLING
                ):  # cancelled, but the server stopped before that was recorded
                    self._put_back(memory)
                    raise _Cancelled
                figures, message = self._learn(job, memory)
            self._over(job, DONE, message, figures)
        except _Stopped:
            return
        except _Cancelled:
            self._over(job, CANCELLED)
        except UserError as error:
            self._put_back(memory)
            self._over(job, FAILED, " ".join(str(error).split()))
        except OSError as error:
            failed("job", error)
            self._put_back(memory)
            self._over(job, FAILED, f"the server cannot keep it: {error.strerror}")
        except Exception as error:
            failed("job", error)
            self._put_back(memory)
            self._over(job, FAILED, "the server failed; its log says where")

    def _over(self, job: Job, state: str, message: str = "", figures: Any = None) -> None:
        with self._changed:
            self._cancel.discard(job.number)
        self.jobs.end(job, state, message, figures)
        self.ended(state)
        self.feed.tell(job.id, {"state": state, "message": message, "figures": figures})

    def _learn(self, job: Job, memory: Memory) -> tuple[Figures, str]:
        """Read and study; the previous file is kept until the end."""
        if not memory.before.exists():
            os.link(memory.file, memory.before)  # the file is replaced, never written into
        learner = self.served.teacher.fork()
        learner.load(memory.file)
        watch = _Watch(self, job)
        try:
            watch.look()
            if job.text is None:
                return self._consolidate(learner, memory, watch), ""
            watch.surprise(learner)
            session = Session(learner=learner, memory=memory.file)
            session.show = watch.read
            session.read([(job.name, job.text)], about=job.about)
            new = bool(session.readings or learner.state.waiting)
            if learner.studies:
                Studies(
                    learner=learner, memory=memory.file, plan=self.plan, show=watch.studied
                ).run()
            watch.surprise(learner, after=True)
        except _Cancelled:
            self._put_back(memory)
            raise
        if learner.studies:
            memory.before.unlink()
        else:
            os.replace(memory.before, memory.last)
        self.library.touch(memory)
        if not new:
            return _figures(learner, session), "this text was learned before"
        return _figures(learner, session), _rest(learner)

    def _consolidate(self, learner: ContinualLearner, memory: Memory, watch: "_Watch") -> Figures:
        """Consolidate what the fast levels have learned into the slowest one, and reset them."""
        done = consolidate(learner, self.rest)
        learner.save(memory.file)
        watch.look()
        os.replace(memory.before, memory.last)
        self.library.touch(memory)
        return {name: float(value) for name, value in asdict(done).items()}

    def _put_back(self, memory: Memory) -> None:
        if memory.before.exists():
            os.replace(memory.before, memory.file)

    def check(self, job: Job) -> None:
        """Raise if the job should end."""
        if self._stopping:
            raise _Stopped
        if job.number in self._cancel:
            raise _Cancelled


def _rest(learner: ContinualLearner) -> str:
    """A note on tokens that the levels have not learned yet."""
    waits = len(learner.state.stream.open_ids)
    if learner.studies or not waits:
        return ""
    return f"its last {waits} tokens are learned with the next document, which completes the period"


def _figures(learner: ContinualLearner, session: Session) -> dict[str, float]:
    """The results of learning a document."""
    if learner.studies:
        return learner.state.studied[-1].figures if learner.state.studied else {}
    tokens = sum(reading.tokens for _, reading in session.readings)
    nats = sum(reading.nats for _, reading in session.readings)
    scored = sum(reading.scored for _, reading in session.readings)
    return {"tokens": float(tokens), "loss": nats / scored if scored else 0.0}


class _Watch:
    """Reports the progress of a job, and stops it when it should end."""

    def __init__(self, school: School, job: Job):
        self.school, self.job = school, job
        self._noted = 0.0

    def look(self) -> None:
        self.school.check(self.job)

    def _told(self, what: str, done: int, steps: int, **more: Any) -> None:
        now = time.monotonic()
        if now - self._noted >= NOTED:
            self.school.jobs.progress(self.job, done, steps)
            self._noted = now
        event = {"state": "running", "what": what, "done": done, "steps": steps, **more}
        self.school.feed.tell(self.job.id, event)

    def surprise(self, learner: ContinualLearner, after: bool = False) -> None:
        """Report the surprise of the beginning of the document, piece by piece."""
        pieces = surprise(learner, (self.job.text or "")[:COLOURED])
        told = [[text, None if nats is None else round(nats, 2)] for text, nats in pieces]
        name = "surprise_after" if after else "surprise"
        self.school.feed.tell(self.job.id, {"state": "running", name: told})

    def read(self, name: str, done: int, total: int, reading: Any) -> None:
        """Called after a segment was read."""
        self._told("reading", done, total, loss=reading.loss, writes=list(reading.writes))
        self.look()

    def studied(self, learner: ContinualLearner, now: Any) -> None:
        """Called after a step of study."""
        more: dict[str, Any] = {} if now.loss is None else {"loss": now.loss}
        opened = learner.state.open
        if now.fresh and opened is not None:
            more["questions"] = [
                {"question": one.question, "answer": one.answer, "held": one.held}
                for one in opened.questions
                if one.answer
            ]
        self._told(now.what, now.done, now.steps, **more)
        self.look()
