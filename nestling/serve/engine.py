"""The thread that generates all answers, in turn, in batches with the same weights."""

import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from typing import NamedTuple

from nestling.models.functional import FunctionalModel
from nestling.serve.added import Added
from nestling.serve.batch import Batch, Weights
from nestling.serve.errors import Refused
from nestling.serve.logs import failed
from nestling.serve.sampling import NONE, Draw, Sampling
from nestling.serve.speech import Speech


class Piece(NamedTuple):
    """A piece of an answer as it is generated."""

    text: str
    tokens: int = 0
    finish: str | None = None  # why it ends: "stop", "length", "timeout", "error"


@dataclass(kw_only=True, eq=False)
class Answer:
    """A requested answer; ``tell`` is called with its pieces, in the engine's thread."""

    ids: Sequence[int]  # token ids of the prompt
    speech: Speech
    tell: Callable[[Piece], None]
    most: int  # tokens
    ends: frozenset[int] = frozenset()  # tokens that end it
    sampling: Sampling = Sampling()
    deadline: float = float("inf")  # of time.monotonic
    weights: Weights = field(default_factory=dict, repr=False)
    key: str = ""  # identifies the weights; answers with the same key are batched
    added: Added | None = None  # changes to the weights, for this answer only
    cancelled: bool = False
    ended: bool = False

    def __post_init__(self):
        self.draw = Draw(self.sampling)

    def take(self, token: int) -> bool:
        """Emit the text of a token; returns whether the answer continues."""
        if self.cancelled:
            return False
        if token == NONE:
            return self._end("error")
        if token in self.ends:
            return self._end("stop")
        text = self.speech.take(token)
        if self.speech.stopped:
            return self._end("stop", text, 1)
        if len(self.speech.ids) >= self.most:
            return self._end("length", text, 1)
        if time.monotonic() > self.deadline:
            return self._end("timeout", text, 1)
        self.tell(Piece(text, 1))
        return True

    def end(self) -> None:
        """Emit the remaining text and the end."""
        self._end("stop")

    def fail(self) -> None:
        """Report an error, unless it has ended."""
        if not self.ended:
            self.ended = True
            self.tell(Piece("", 0, "error"))

    def _end(self, why: str, text: str = "", tokens: int = 0) -> bool:
        self.ended = True  # first, as the client may ask again once answered
        self.tell(Piece(text + self.speech.end(), tokens, why))
        return False


class _Running(NamedTuple):
    batch: Batch
    answers: list[Answer]


class Engine:
    """Accepts requests from any thread; generates a token for every batch in turn."""

    def __init__(self, reader: FunctionalModel, *, rows: int, waiting: int):
        self.reader, self.rows, self.waiting = reader, rows, waiting
        self._open: list[Answer] = []  # submitted and not yet seen to have ended
        self._new: list[Answer] = []
        self._running: list[_Running] = []
        self._changed = threading.Condition()
        self._stopping = False
        self._thread = threading.Thread(target=self._run, name="answers", daemon=True)

    def start(self) -> None:
        """Start the thread."""
        self._thread.start()

    def stop(self) -> None:
        """End all answers where they are, and the thread."""
        with self._changed:
            self._stopping = True
            self._changed.notify()
        self._thread.join()

    @property
    def count(self) -> int:
        """The number of running and waiting answers."""
        with self._changed:
            self._open = [one for one in self._open if not (one.ended or one.cancelled)]
            return len(self._open)

    def submit(self, answers: Sequence[Answer]) -> None:
        """Accept all answers or none; too many raise Refused."""
        with self._changed:
            if self._stopping or self.count + len(answers) > self.waiting:
                raise Refused(503, "the server is busy; ask again in a moment", "overloaded")
            self._open.extend(answers)
            self._new.extend(answers)
            self._changed.notify()

    def _run(self) -> None:
        while True:
            with self._changed:
                while not (self._new or self._running or self._stopping):
                    self._changed.wait()
                if self._stopping:
                    break
                new, self._new = self._new, []
                self._running += [_Running(*one) for one in self._batches(new)]
            self._running = self._joined([one for one in self._running if self._step(one)])
        for answer in [*self._new, *(one for run in self._running for one in run.answers)]:
            answer.fail()

    def _batches(self, new: list[Answer]) -> list[tuple[Batch, list[Answer]]]:
        groups: dict[str, list[Answer]] = {}
        for answer in new:
            groups.setdefault(answer.key, []).append(answer)
        found = []
        for answers in groups.values():
            for at in range(0, len(answers), self.rows):
                part = answers[at : at + self.rows]
                batch = Batch(
                    self.reader,
                    part[0].weights,
                    [one.ids for one in part],
                    [one.draw for one in part],
                    [one.added for one in part],
                )
                found.append((batch, part))
        return found

    def _joined(self, running: list[_Running]) -> list[_Running]:
        """Merge batches with the same key, up to the largest number of rows."""
        found: list[_Running] = []
        for run in running:
            for other in found:
                if other.answers[0].key == run.answers[0].key and self._fit(other, run):
                    other.batch.join(run.batch)
                    other.answers.extend(run.answers)
                    break
            else:
                found.append(run)
        return found

    def _fit(self, one: _Running, other: _Running) -> bool:
        return len(one.batch) + len(other.batch) <= self.rows and one.batch.joins(other.batch)

    def _step(self, run: _Running) -> bool:
        """Generate a token for each answer of a batch; returns whether any continues."""
        batch, answers = run
        left = [row for row, one in enumerate(answers) if not one.cancelled]
        if left:
            batch.keep(left)
            answers[:] = [answers[row] for row in left]
            try:
                tokens = batch.step()
                going = [row for row, token in enumerate(tokens) if answers[row].take(token)]
            except Exception as error:
                failed("answer", error)
                for answer in answers:
                    answer.fail()
                return False
            if going:
                batch.keep(going)
                answers[:] = [answers[row] for row in going]
                return True
        return False
