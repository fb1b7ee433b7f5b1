"""Studies the waiting documents of a memory, with progress, saving, and a summary at the end."""

import contextlib
import sys
import time
from collections.abc import Generator
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, NamedTuple

from nestling.continual.guard import Guard
from nestling.continual.learner import ContinualLearner
from nestling.continual.study.examine import answers, asked_of, holds, right
from nestling.continual.study.plan import Plan
from nestling.continual.study.record import Studied
from nestling.continual.study.study import Progress, School, Show, study_next

EVERY = 15.0  # seconds between two writes of the file


class Own(NamedTuple):
    """A question of the user."""

    question: str
    answer: str  # "" if unknown
    before: str
    after: str


@dataclass(kw_only=True)
class Studies:
    """The study of all waiting documents of a learner."""

    learner: ContinualLearner
    memory: Path | None = None  # None: save nothing
    plan: Plan | None = None  # None: the default
    guard: Guard | None = None  # protects against forgetting
    own: tuple[tuple[str, str], ...] = ()  # questions of the user, with answers or ""
    show: Show | None = None
    made: Show | None = None  # called once the questions of a passage are made
    studied: list[Studied] = field(default_factory=list)
    seconds: float = 0.0
    asked: list[Own] = field(default_factory=list)
    probed: list[str] = field(default_factory=list)

    def run(self) -> None:
        """Study all documents; if interrupted, the file has everything done so far."""
        if not self.learner.state.waiting:
            return
        began, self._saved = time.monotonic(), time.monotonic()
        before = self._answers()
        probed = None if self.guard is None else self.guard.measure(self.learner)
        try:
            while self.learner.state.waiting:
                self._next(probed)
        finally:
            self.save()
            self.seconds += time.monotonic() - began
        after = self._answers()
        pairs = zip(self.own, before, after, strict=True)
        self.asked = [Own(question, answer, a, b) for (question, answer), a, b in pairs]

    def _next(self, probed: float | None) -> None:
        """Study one document, and undo it if the probe got worse than the guard allows."""
        one = study_next(
            self.learner.school, self.plan or Plan(rank=self.learner.rank), self._shown
        )
        self.studied.append(one)
        if self.guard is None or probed is None:
            return
        now = self.guard.measure(self.learner, one)
        undone = self.guard.broken(probed, now)
        if undone:
            self.learner.undo()
        end = ": UNDONE" if undone else ""
        self.probed.append(f"probe {probed:.4f} before, after {one.name} {now:.4f}{end}")

    def save(self) -> None:
        """Write the memory file."""
        if self.memory is not None:
            self.learner.save(self.memory)
            self._saved = time.monotonic()

    def _answers(self) -> list[str]:
        if not self.own:
            return []
        school: School = self.learner.school
        return [
            answers(school.speaker, school.talk, [asked], self.learner.weights_for(asked))[0]
            for asked, _ in self.own
        ]

    def _shown(self, learner: ContinualLearner, progress: Progress) -> None:
        if self.made is not None and progress.what == "studying" and progress.fresh:
            self.made(learner, progress)
        if self.show is not None:
            self.show(learner, progress)
        if time.monotonic() - self._saved >= EVERY:
            self.save()

    @contextlib.contextmanager
    def shown(self, quiet: bool = False) -> Generator[None]:
        """Show progress and the time left on a terminal."""
        if quiet or not sys.stderr.isatty():
            yield
            return
        from rich.console import Console
        from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

        columns = (TextColumn("{task.description}"), BarColumn(), TimeRemainingColumn())
        with Progress(*columns, console=Console(stderr=True)) as bars:
            bar = bars.add_task("")

            def show(learner: ContinualLearner, now: Any) -> None:
                loss = "" if now.loss is None else f", loss {now.loss:.2f}"
                text = f"{now.name or 'text'}: {now.what}{loss}"
                bars.update(bar, completed=now.done, total=now.steps, description=text)

            self.show = show
            yield
            self.show = None

    def record(self) -> list[dict[str, Any]]:
        """The figures, as JSON values."""
        return [
            {"name": one.name, "missing": list(one.missing), "seconds": self.seconds, **one.figures}
            for one in self.studied
        ]

    def summary(self) -> str:
        """A table of the documents, the words not covered, and the user's questions."""
        from nestling.report import Table

        rows = [study_row(one) for one in self.studied]
        columns = (
            "studied",
            "questions",
            "covered",
            "right before",
            "after",
            "held out",
            "recited",
            "known",
        )
        lines = [Table(columns=columns, rows=rows).text()] if rows else []
        for one in self.studied:
            if one.missing:
                lines.append(f"not covered in {one.name or 'text'}: {', '.join(one.missing)}")
        for own in self.asked:
            right = [
                f"{text.strip()!r}{self._mark(text, own.answer)}"
                for text in (own.before, own.after)
            ]
            lines.append(f"{own.question} before: {right[0]} after: {right[1]}")
        lines += self.probed
        lines.append(f"{self.seconds:.0f} seconds of study")
        return "\n".join(lines)

    @staticmethod
    def _mark(text: str, answer: str) -> str:
        if not answer:
            return ""
        return " (right)" if holds(text, answer) else " (not right)"


def known_now(learner: ContinualLearner) -> list[tuple[Studied, int, int]]:
    """(document, right answers now, questions asked) for each studied document."""
    school, found = learner.school, []
    for one in learner.state.studied:
        asked = asked_of(one.questions, "show")
        known = right(school.speaker, school.talk, asked, learner.weights_of(one))
        found.append((one, sum(known), len(asked)))
    return found


def questions_shown(learner: ContinualLearner, progress: Progress) -> None:
    """Print the questions of the current passage."""
    state = learner.state.open
    for one in state.questions if state else ():
        held = " (held out)" if one.held else ""
        print(f"  [{one.maker}] {one.question} -> {one.answer or one.reply}{held}")


def study_row(one: Studied) -> tuple[str, ...]:
    """The table row of a document: questions, coverage, right answers, sentences that the model
    recites, loss of known text."""
    f = one.figures
    asked, held = int(f["asked"]), int(f["held"])
    covered = 1 - len(one.missing) / max(1.0, f["telling"])
    rise = 100 * (f["known_after"] / f["known_before"] - 1) if f["known_before"] else 0.0
    return (
        one.name or "text",
        str(len(one.questions)),
        f"{100 * covered:.0f} %",
        f"{f['right_before']:.0f} of {asked}",
        f"{f['right_after']:.0f} of {asked}",
        f"{f['held_right']:.0f} of {held}" if held else "-",
        f"{f['recited']:.0f} of {f['sentences']:.0f}" if "recited" in f else "-",
        f"{f['known_before']:.3f} -> {f['known_after']:.3f} ({rise:+.1f} %)",
    )


def read_questions(path: Path) -> tuple[tuple[str, str], ...]:
    """Read questions from a file, one per line, with the answer after a tab if it is known."""
    from nestling.continual.opening import read_documents

    [(_, text)] = read_documents([path])
    found = []
    for line in text.splitlines():
        question, _, answer = line.partition("\t")
        if question.strip():
            found.append((question.strip(), answer.strip()))
    return tuple(found)
