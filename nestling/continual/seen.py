"""Which version of a memory file a learner knows, so that it overwrites what no one else wrote."""

import os
from pathlib import Path

from nestling.continual.file import checksum
from nestling.core.error import UserError


class Seen:
    """The checksum of each memory file that a learner has read or written, as it then was."""

    def __init__(self):
        self._known: dict[str, str | None] = {}  # by whole path; None: there was no file

    def note(self, path: Path) -> None:
        """What is there now is known."""
        self._known[os.path.realpath(path)] = checksum(path)

    def check(self, path: Path, *, strange: bool = True) -> None:
        """Raise UserError if another has written the file since it was known.

        A file that is there and was never read or written is ``strange``, and let be overwritten.
        """
        whole, now = os.path.realpath(path), checksum(path)
        if now in (None, self._known.get(whole)) or (strange and whole not in self._known):
            return
        raise UserError(
            f"{path} holds what this learner has not read: another has written it; save under "
            "another name (nestling memory merge joins both), or load it first"
        )

    def fork(self) -> "Seen":
        """The same, to go on by itself."""
        other = Seen()
        other._known = dict(self._known)
        return other
