"""The log of a run, as JSON lines."""

import json
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import write_whole
from nestling.train.track import Tracker


class Log:
    """One JSON object per line: ``{"step": 1, "loss": 8.3, ...}``.

    Opened for a run that starts at step ``after``: lines of later steps, left by a run that was
    interrupted after its last checkpoint, are dropped. A tracker gets every line as well.
    """

    def __init__(self, path: Path | None, after: int = 0, tracker: Tracker | None = None):
        self.path, self.tracker = path, tracker
        if path is None:
            return
        kept = [line for line in self._lines(path) if line["step"] <= after] if after else []
        write_whole(path, "".join(json.dumps(line) + "\n" for line in kept).encode())

    @staticmethod
    def _lines(path: Path) -> list[dict[str, Any]]:
        if not path.exists():
            return []
        lines = path.read_text(encoding="utf-8").splitlines()
        # the last line may be truncated if the process was killed
        return [json.loads(line) for line in lines if line.endswith("}")]

    def write(self, **values: Any) -> None:
        """Append one line."""
        if self.tracker is not None:
            self.tracker.write(values)
        if self.path is None:
            return
        try:
            with open(self.path, "a", encoding="utf-8") as file:
                file.write(json.dumps(values) + "\n")
        except OSError as error:
            raise UserError(
                f"cannot write {self.path}: {error.strerror}; free some space, then --resume"
            ) from error

    def close(self) -> None:
        """Let the tracker flush its output."""
        if self.tracker is not None:
            self.tracker.close()
