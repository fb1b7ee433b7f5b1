"""Which version of a memory file a learner knows, so that it overwrites nothing it has not read."""

import os
from pathlib import Path

from nestling.continual.file import checksum
from nestling.core.error import UserError


class Seen:
    """The checksum of each memory file that a learner has read or written, as it then was."""

    def __init__(self):
        self._known: dict[str, str | None] = {}  # by whole path; None: there was no file

    def note(self, path: Path) -> None:
        """Take what is there now as known."""
        self._known[os.path.realpath(path)] = checksum(path)

    def check(self, path: Path) -> None:
        """Raise UserError if there is a file that this learner has not read or written itself."""
        whole, now = os.path.realpath(path), checksum(path)
        if now in (None, self._known.get(whole)) or path.is_dir():  # writing says why it cannot
            return
        what = "another has written it" if whole in self._known else "it was there before"
        raise UserError(
            f"{path} holds what this learner has not read: {what}; save under another name "
            "(nestling memory merge joins both), load it first to go on with it, or, in Python, "
            "save with overwrite=True"
        )

    def fork(self) -> "Seen":
        """The same, to go on by itself."""
        other = Seen()
        other._known = dict(self._known)
        return other
