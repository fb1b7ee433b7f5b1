"""Which versions of memory files a learner knows, so that it overwrites nothing unread."""

import os
from pathlib import Path

from nestling.continual.file import checksum
from nestling.core.error import UserError


class Seen:
    """The checksum of each memory file when the learner last read or wrote it."""

    def __init__(self):
        self._known: dict[str, str | None] = {}  # by absolute path; None: there was no file

    def note(self, path: Path) -> None:
        """Record the current version as known."""
        self._known[os.path.realpath(path)] = checksum(path)

    def check(self, path: Path) -> None:
        """Raise UserError if a file exists that this learner has neither read nor written."""
        whole, now = os.path.realpath(path), checksum(path)
        if now in (None, self._known.get(whole)) or path.is_dir():  # writing reports the error
            return
        what = "another has written it" if whole in self._known else "it was there before"
        raise UserError(
            f"{path} has content that this learner has not read: {what}; save under another name "
            "(nestling memory merge joins both), load it first to continue it, or, in Python, "
            "save with overwrite=True"
        )

    def fork(self) -> "Seen":
        """An independent copy."""
        other = Seen()
        other._known = dict(self._known)
        return other
