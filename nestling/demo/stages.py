"""The completed stages of a demo, recorded in its folder, so that it can resume."""

import json
import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from nestling.core.error import UserError
from nestling.core.result import write_json, write_whole

FILE = "stages.json"
OWN = {FILE, "model", "notes.memory", "notes.memory.lock", "report.html", "report.json"}


class Stages:
    """The stages of one folder, each with its inputs and, once completed, its result."""

    def __init__(self, folder: Path, anew: bool = False):
        take_folder(folder)
        self.folder, self.file = folder, folder / FILE
        self._done: dict[str, Any] = {}
        if self.file.exists() and not anew:
            try:
                self._done = dict(json.loads(self.file.read_text(encoding="utf-8")))
            except (OSError, ValueError) as error:
                raise UserError(f"{self.file} cannot be read ({error}); delete it") from error

    def same(self, name: str, key: Any) -> bool:
        """Whether a stage was begun before with the same inputs."""
        return self._done.get(name, {}).get("key") == plain(key)

    def begin(self, name: str, key: Any) -> None:
        """Start a stage, discarding its earlier result."""
        self._keep(name, {"key": plain(key)})

    def done(self, name: str, key: Any) -> bool:
        """Whether a stage was completed with the same inputs."""
        return self.same(name, key) and "found" in self._done[name]

    def run(self, name: str, key: Any, work: Callable[[], Any]) -> Any:
        """The result of a stage: the recorded one if its inputs are the same, else a new one."""
        if not self.done(name, key):
            self._keep(name, {"key": plain(key), "found": plain(work())})
        return self._done[name]["found"]

    def _keep(self, name: str, one: dict[str, Any]) -> None:
        self._done[name] = one
        write_json(self.file, self._done)


def plain(value: Any) -> Any:
    """A value after a round trip through JSON."""
    return json.loads(json.dumps(value, default=str))


def take_folder(folder: Path) -> None:
    """Check that the demo can write in ``folder`` before it works for minutes.

    The folder of an earlier demo is continued; any other must be empty.
    """
    if folder.exists() and not folder.is_dir():
        raise UserError(f"{folder} is a file; choose a folder with --out")
    try:
        folder.mkdir(parents=True, exist_ok=True)
        foreign = [name for name in os.listdir(folder) if name not in OWN and name[0] != "."]
    except OSError as error:
        raise UserError(
            f"cannot use the folder {folder}: {error.strerror}; choose another with --out"
        ) from error
    if foreign:
        raise UserError(
            f"{folder} contains {sorted(foreign)[0]}, not a demo; choose another with --out"
        )
    write_whole(folder / ".probe", b"").unlink()
