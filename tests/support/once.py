"""Resources created once per test run, by whichever worker needs them first."""

from collections.abc import Callable
from pathlib import Path

from filelock import FileLock

place: Path | None = None  # a folder of this run that all its workers see; set by conftest.py


def made_once(name: str, make: Callable[[Path], None]) -> Path:
    """The folder filled by ``make``; other workers wait meanwhile."""
    assert place is not None, "no test is running"
    folder = place / name
    with FileLock(place / f"{name}.lock"):
        if not folder.exists():
            draft = place / f"{name}.draft"
            draft.mkdir()
            make(draft)
            draft.rename(folder)
    return folder
