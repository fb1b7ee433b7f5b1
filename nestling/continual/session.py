"""Read documents one after the other, saving at every full period, under a guard."""

import contextlib
from collections.abc import Callable, Generator, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from nestling.continual.file import sweep
from nestling.continual.guard import Guard, Kept
from nestling.continual.learner import ContinualLearner
from nestling.continual.state import Reading
from nestling.continual.writing import share_moved
from nestling.core.error import UserError
from nestling.core.result import Result

Show = Callable[[str, int, int, Reading], None]  # name, tokens done, total tokens, result so far


@dataclass(kw_only=True)
class Session:
    """Reads documents into a memory file."""

    learner: ContinualLearner
    memory: Path | None = None  # None: keep nothing
    save_every: int | None = None  # tokens; None: the fastest period
    guard: Guard | None = None
    before: float | None = None  # loss of the probe at the start, nats per token
    readings: list[tuple[str, Reading]] = field(default_factory=list)
    kept: list[Kept] = field(default_factory=list)
    show: Show | None = None

    def __post_init__(self):
        segment = self.learner.sizes.segment
        every = self.save_every or min(
            (writer.period for writer in self.learner.writers), default=segment
        )
        if every < 1 or every % segment:
            raise UserError(
                f"save-every is {every}; give a multiple of the segment, {segment} tokens"
            )
        self._every = every
        if self.memory is not None:
            self.learner.seen.check(self.memory)
            sweep(self.memory)
        if self.guard is not None:
            self.before = self.guard.measure(self.learner)

    def read(
        self, documents: Iterable[tuple[str, str]], *, again: bool = False, about: str = ""
    ) -> None:
        """Read named texts; the memory file is valid at any time.

        It is written whenever a period is full and after each document, so that a killed process
        loses at most the open period; the same call resumes. With a guard, a document counts only
        after the probe has been measured, and the file is written between documents only. Without
        ``again``, texts that the memory has read are skipped. ``about`` is the subject of all.
        """
        for name, text in documents:
            state = self.learner.state
            reading = self.learner.read(
                text, name=name, about=about, again=again, after=self._after(name)
            )
            if reading.tokens == 0:
                continue
            self.readings.append((name, reading))
            if self.guard is not None and self.before is not None:
                loss = self.guard.measure(self.learner)
                undone = self.guard.broken(self.before, loss)
                if undone:
                    self.learner.state = state
                self.kept.append(Kept(name=name, probe=loss, undone=undone))
            self.save()

    def finish(self) -> None:
        """Write the levels with open periods, and save."""
        self.readings.append(("open periods", self.learner.finish()))
        self.save()

    def save(self) -> None:
        """Write the memory file."""
        if self.memory is not None:
            self.learner.save(self.memory)

    def _after(self, name: str) -> Callable[[ContinualLearner, Reading], None]:
        def after(learner: ContinualLearner, reading: Reading) -> None:
            if self.guard is None and learner.state.stream.tokens % self._every == 0:
                self.save()
            if self.show is not None:
                document = learner.state.documents[-1]
                self.show(name, document.read, document.tokens, reading)

        return after

    @contextlib.contextmanager
    def shown(self, quiet: bool = False) -> Generator[None]:
        """Show progress while documents are read."""
        from nestling.report.progress import Progress

        with Progress("tokens", quiet=quiet) as progress:
            before = ""

            def show(name: str, done: int, total: int, reading: Reading) -> None:
                nonlocal before
                if name != before:
                    progress.end(before)
                    before = name
                text = f"loss {reading.loss:.3f} | writes {reading.writes}"
                progress.show(done, total, text, name)

            self.show = show
            yield
            self.show = None

    def summary(self) -> str:
        """A summary: what was read, the writes of each level, and the guard's measurements."""
        from nestling.report import Table

        lines = []
        if self.readings:
            rows = [
                (name, f"{r.tokens:,}", f"{r.loss:.3f}" if r.scored else "-")
                for name, r in self.readings
            ]
            columns = ("read", "tokens", "loss (nats per token)")
            lines.append(Table(columns=columns, rows=rows).text())
        else:
            lines.append("nothing new to read: the memory has read these texts (--again)")
        for index, level in enumerate(self.learner.levels):
            state = self.learner.state.levels[index]
            since = "" if level.share is None else " since it was reset"
            moved = share_moved(self.learner.start[index], state)
            waits = int(state.seen) % int(level.period) + len(self.learner.state.stream.open_ids)
            lines.append(
                f"level {level.text}: {int(state.writes)} writes{since}, moved {100 * moved:.3f} % "
                f"of its base, {waits} tokens wait for their period of {level.period}"
            )
        if self.before is not None:
            lines.append(f"probe before: {self.before:.4f} nats a token")
        for kept in self.kept:
            end = ": UNDONE" if kept.undone else ""
            lines.append(f"probe after {kept.name}: {kept.probe:.4f}{end}")
        return "\n".join(lines)

    def result(self, model: str) -> Result:
        """The figures as a Result."""
        config: dict[str, Any] = {
            "model": model,
            "base": self.learner.digest,
            "levels": [level.record() for level in self.learner.levels],
            "segment": self.learner.sizes.segment,
            "window": self.learner.sizes.window,
            "surprise": self.learner.options.surprise,
            "averages": list(self.learner.spans),
        }
        read = [
            {"name": name, "tokens": r.tokens, "loss": r.loss, "writes": list(r.writes)}
            for name, r in self.readings
        ]
        guard = {"before": self.before, "after": [kept.record() for kept in self.kept]}
        return Result(name="learn", config=config, metrics={"read": read, "probe": guard})
