"""What a run tells while it runs: a live line for people, JSON lines for programs."""

import json
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import write_whole


class Log:
    """One JSON object a line: ``{"step": 1, "loss": 8.3, ...}``.

    Opened for a run that starts at ``after``: lines of later steps, left by a run that was cut off
    after its last checkpoint, are dropped.
    """

    def __init__(self, path: Path | None, after: int = 0):
        self.path = path
        if path is None:
            return
        kept = [line for line in self._lines(path) if line["step"] <= after] if after else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    @staticmethod
    def _lines(path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        # the last line may be cut short by the end of the process that wrote it
        return [json.loads(line) for line in lines if line.endswith("}")]

    def write(self, **values: Any) -> None:
        """Append one line."""
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free some space, then --resume"
            ) from error


class Live:
    """A line that follows the run: step, loss, tokens/s, time left, levels written.

    On a terminal one line is redrawn; elsewhere a plain line appears every few seconds. ``None``
    as stream keeps silent.
    """

    def __init__(self, steps: int, *, done: int = 0, quiet: bool = False, every: float = 10.0):
        self.steps = steps
        self.quiet = quiet
        self.every = every
        self._first = done
        self._last = 0.0
        self._start = time.monotonic()
        self._progress: Any = None
        self._task: Any = None

    def __enter__(self) -> "Live":
        if not self.quiet and sys.stderr.isatty():
            from rich.console import Console
            from rich.progress import BarColumn, Progress, TextColumn, TimeRemainingColumn

            self._progress = Progress(
                TextColumn("step {task.completed}/{task.total}"),
                BarColumn(bar_width=20),
                TextColumn("{task.description}"),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._progress.start()
            self._task = self._progress.add_task("", total=self.steps, completed=self._first)
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()

    def show(self, step: int, loss: float, speed: float, fired: tuple[str, ...]) -> None:
        """Show the figures of a step; ``speed`` in tokens/s."""
        if self.quiet:
            return
        text = f"loss {loss:.3f} | {speed:,.0f} tokens/s | writes {', '.join(fired) or '-'}"
        if self._progress is not None:
            self._progress.update(self._task, completed=step, description=text)
            return
        now = time.monotonic()
        if step in (1, self.steps) or now - self._last >= self.every:
            self._last = now
            left = (now - self._start) / max(1, step - self._first) * (self.steps - step)
            print(f"step {step}/{self.steps} | {text} | {left:,.0f} s left", file=sys.stderr)
