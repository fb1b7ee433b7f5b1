"""What a running study shows: the cells under way, and a line for each that is finished."""

import sys
import time
from types import TracebackType
from typing import Any

from nestling.core.result import Result
from nestling_lab.studies.study import Tell

# the figures worth a line, the first that a cell has
HEADLINES = ("accuracy", "val_perplexity", "val_loss")


class Board:
    """On a terminal a bar for every running cell; elsewhere a plain line now and then."""

    def __init__(self, *, quiet: bool = False, every: float = 30.0):
        self.quiet = quiet
        self.every = every  # seconds between two lines of one cell
        self._progress: Any = None
        self._bars: dict[str, Any] = {}
        self._last: dict[str, float] = {}

    def __enter__(self) -> "Board":
        if not self.quiet and sys.stderr.isatty():
            from rich import progress
            from rich.console import Console

            self._progress = progress.Progress(
                progress.TextColumn("{task.description}"),
                progress.BarColumn(),
                progress.MofNCompleteColumn(),
                progress.TextColumn("loss {task.fields[loss]:.3f}"),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def note(self, text: str) -> None:
        """Say something once."""
        if self._progress is not None:
            self._progress.console.print(text, highlight=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def teller(self, name: str) -> Tell:
        """What a cell calls at every step."""
        return lambda step, steps, loss: self.show(name, step, steps, loss)

    def show(self, name: str, step: int, steps: int, loss: float) -> None:
        """How far a cell has come."""
        if self._progress is not None:
            if name not in self._bars:
                self._bars[name] = self._progress.add_task(name, total=steps, loss=loss)
            self._progress.update(self._bars[name], completed=step, loss=loss)
        elif time.monotonic() - self._last.get(name, -self.every) >= self.every:
            self._last[name] = time.monotonic()
            self.note(f"{name}: step {step}/{steps}, loss {loss:.3f}")

    def finish(self, name: str, result: Result) -> None:
        """A cell has its Result."""
        if self._progress is not None and name in self._bars:
            self._progress.remove_task(self._bars.pop(name))
        figures = {key: result.metrics.get(key) for key in HEADLINES}
        numbers = [f"{k} {x:.4g}" for k, x in figures.items() if isinstance(x, int | float)]
        figure = numbers[0] if numbers else "no figure"
        end = "diverged" if result.metrics.get("diverged") else f"finished, {figure}"
        self.note(f"{name}: {end}")
