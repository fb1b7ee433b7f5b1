"""Progress of running work: bars on a terminal, occasional plain lines elsewhere."""

import math
import sys
import time
from dataclasses import dataclass
from types import TracebackType
from typing import Any


@dataclass
class _Piece:
    begun: float  # start time, seconds
    first: int  # count at the start
    told: float  # time of its last line, seconds


class Progress:
    """Shows the progress of one piece of work, or of several by name, on stderr.

    On a terminal each piece has a bar; elsewhere it prints a plain line every ``every`` seconds.
    With ``ends`` there is also a line at its first and last count, and its bar stays. ``unit`` is
    what is counted; with ``quiet`` nothing is shown.
    """

    def __init__(
        self, unit: str = "", *, quiet: bool = False, every: float = 10.0, ends: bool = False
    ):
        self.unit, self.quiet, self.every, self.ends = unit, quiet, every, ends
        self._pieces: dict[str, _Piece] = {}
        self._bars: Any = None  # rich's progress display, while active
        self._tasks: dict[str, Any] = {}
        self._heading = ""

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
        """Print a line; progress without a name belongs to it from now on."""
        self._close()
        self.note(text)
        self._heading = text
        self.begin()

    def note(self, text: str) -> None:
        """Print a line above the bars."""
        if self._bars is not None:
            self._bars.console.print(text, highlight=False, markup=False)
        elif not self.quiet:
            print(text, file=sys.stderr, flush=True)

    def begin(self, name: str = "", done: int = 0) -> None:
        """Start a piece at ``done``; the remaining time is estimated from here."""
        now = time.monotonic()
        self._pieces[name] = _Piece(now, done, -math.inf if self.ends else now)

    def show(self, done: int, total: int, text: str = "", name: str = "") -> None:
        """Report that ``done`` of ``total`` are done, with an additional text."""
        if self.quiet:
            return
        if name not in self._pieces:
            self.begin(name)
        if self._bars is not None or sys.stderr.isatty():  # some releases of rich hide it meanwhile
            self._draw(name, done, total, text)
            return
        piece, now = self._pieces[name], time.monotonic()
        if now - piece.told >= self.every or (self.ends and done == total):
            piece.told = now
            left = (now - piece.begun) / max(1, done - piece.first) * (total - done)
            parts = (name or self._heading, self._count(done, total), text, f"{left:,.0f} s left")
            print(" | ".join(filter(None, parts)), file=sys.stderr, flush=True)

    def end(self, name: str) -> None:
        """End a piece and remove its bar."""
        self._pieces.pop(name, None)
        if name in self._tasks:
            self._bars.remove_task(self._tasks.pop(name))

    def _count(self, done: int, total: int) -> str:
        return f"{done:,} of {total:,} {self.unit}".rstrip()

    def _draw(self, name: str, done: int, total: int, text: str) -> None:
        if self._bars is None:
            from rich import progress
            from rich.console import Console

            self._bars = progress.Progress(
                progress.TextColumn("{task.description}", markup=False),
                progress.BarColumn(bar_width=20),
                progress.TextColumn("{task.fields[told]}", markup=False),
                progress.TimeRemainingColumn(),
                console=Console(stderr=True),
                transient=not self.ends,
                refresh_per_second=4,
            )
            self._bars.start()
        told = " | ".join(filter(None, (self._count(done, total), text)))
        if name not in self._tasks:
            first = self._pieces[name].first
            self._tasks[name] = self._bars.add_task(name, total=total, completed=first, told=told)
        self._bars.update(self._tasks[name], completed=done, told=told)

    def _close(self) -> None:
        if self._bars is not None:
            self._bars.stop()
        self._bars, self._tasks = None, {}
