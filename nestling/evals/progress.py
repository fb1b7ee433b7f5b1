"""How far a measurement is, while it runs."""

import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Any

Tell = Callable[[int, int], None]  # done, of so many


def silent(done: int, count: int) -> None:
    """A Tell that tells nobody."""


class Progress:
    """A line for each task, and how many of its questions are ``done``: answered, or else.

    On a terminal one line is redrawn; elsewhere a plain line appears every ``every`` seconds, on
    the error stream. ``quiet`` keeps silent.
    """

    def __init__(self, *, done: str = "answered", quiet: bool = False, every: float = 10.0):
        self.done, self.quiet, self.every = done, quiet, every
        self._name = ""
        self._begin = self._last = time.monotonic()
        self._bar: Any = None
        self._task: Any = None

    def __enter__(self) -> "Progress":
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self._close()

    def say(self, text: str) -> None:
        """A line of its own; what is counted from now on belongs to it."""
        self._close()
        self._name = text
        self._begin = self._last = time.monotonic()
        if not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def tell(self, done: int, count: int) -> None:
        """So many are done, of so many."""
        if self.quiet:
            return
        if sys.stderr.isatty():
            self._draw(done, count)
            return
        now = time.monotonic()
        if now - self._last >= self.every:
            self._last = now
            left = (now - self._begin) / done * (count - done)
            line = f"{self._name} | {done:,} of {count:,} {self.done} | {left:,.0f} s left"
            print(line, file=sys.stderr, flush=True)

    def _draw(self, done: int, count: int) -> None:
        if self._bar is None:
            from rich import progress
            from rich.console import Console

            columns = (
                progress.BarColumn(bar_width=20),
                progress.TextColumn(f"{{task.completed}} of {{task.total}} {self.done}"),
                progress.TimeRemainingColumn(),
            )
            self._bar = progress.Progress(
                *columns, console=Console(stderr=True), transient=True, refresh_per_second=4
            )
            self._bar.start()
            self._task = self._bar.add_task("", total=count)
        self._bar.update(self._task, completed=done)

    def _close(self) -> None:
        if self._bar is not None:
            self._bar.stop()
            self._bar = None
