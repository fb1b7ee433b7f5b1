"""One process at a time writes a file: a lock beside it, which says who holds it."""

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Generator
from pathlib import Path

from filelock import FileLock, SoftFileLock, Timeout

from nestling.core.error import UserError


@contextlib.contextmanager
def locked(path: str | Path, what: str = "a program") -> Generator[None]:
    """Keep other processes from writing ``path`` (a file or a folder) while the block runs.

    If one holds it already, a UserError names that process, and nothing is done. ``what`` describes
    the holder to others. The lock is the file ``PATH.lock``; it is released when the process ends,
    killed or not. It is reentrant within a thread.
    """
    whole = Path(os.path.realpath(path))
    place = whole.with_name(f"{whole.name}.lock")
    lock = FileLock(place, timeout=0, is_singleton=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        lock.acquire()
    except Timeout as error:
        raise UserError(
            f"{path} is in use: {_holder(place)} writes it; wait for its end or name another one"
        ) from error
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error.strerror}; choose a folder with space and permission"
        ) from error
    # where the file system knows no locks, the file itself is one, and its content is filelock's
    own = not isinstance(lock, SoftFileLock)
    try:
        if own and lock.lock_counter == 1:
            _sign(place, what)
        yield
    finally:
        if own and lock.lock_counter == 1:
            # before the release: filelock passes over a file that is gone once it has locked it
            with contextlib.suppress(OSError):
                place.unlink()
        lock.release()


def _sign(place: Path, what: str) -> None:
    """Say in the lock who holds it, where the system lets a locked file be written."""
    about = {
        "what": what,
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        place.write_text(json.dumps(about), encoding="utf-8")


def _holder(place: Path) -> str:
    try:
        about = json.loads(place.read_text(encoding="utf-8"))
        host = "" if about["host"] == platform.node() else f" on {about['host']}"
        return f"{about['what']} (process {about['pid']}{host}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return "another process"
