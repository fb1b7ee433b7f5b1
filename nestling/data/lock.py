"""Lock files: one process at a time writes a file, and others learn which one."""

import contextlib
import datetime
import json
import os
import platform
from collections.abc import Generator
from pathlib import Path
from time import sleep

from filelock import BaseFileLock, FileLock, SoftFileLock, Timeout

from nestling.core.error import UserError

TRIES = 20  # attempts to take a lock that names no holder
MOMENT = 0.05  # seconds between them


@contextlib.contextmanager
def locked(path: str | Path, what: str = "a program") -> Generator[None]:
    """Keep other processes from writing ``path`` (a file or a folder) while the block runs.

    Raises UserError at once if another process holds the lock, and names it. ``what`` describes
    this process to others. The lock is the file ``PATH.lock``; it is released when the process
    ends, even if it is killed, and is reentrant within a thread.
    """
    whole = Path(os.path.realpath(path))
    place = whole.with_name(f"{whole.name}.lock")
    lock = FileLock(place, timeout=0, is_singleton=True)
    try:
        place.parent.mkdir(parents=True, exist_ok=True)
        _acquire(lock, path, place)
    except OSError as error:
        raise UserError(
            f"cannot lock {path}: {error.strerror}; choose a writable folder with free space"
        ) from error
    # on a file system without locks, the file itself is the lock, and filelock writes its content
    own = not isinstance(lock, SoftFileLock)
    try:
        if own and lock.lock_counter == 1:
            _sign(place, what)
        yield
    finally:
        if own and lock.lock_counter == 1:
            # before the release: filelock tries again if the file is gone once it has locked it
            with contextlib.suppress(OSError):
                place.unlink()
        lock.release()


def _acquire(lock: BaseFileLock, path: str | Path, place: Path) -> None:
    """Take a lock, or raise UserError that names its holder.

    A process that has just taken the lock may not have signed it yet, and one about to release it
    has removed its name; so unsigned locks are tried again for a moment.
    """
    for left in reversed(range(TRIES)):
        try:
            lock.acquire()
            return
        except Timeout as error:
            holder = _holder(place)
            if holder is None and left:
                sleep(MOMENT)
                continue
            raise UserError(
                f"{path} is in use by {holder or 'another process'}; wait until it ends, or name "
                "another file"
            ) from error


def _sign(place: Path, what: str) -> None:
    """Write into the lock who holds it, if the system lets a locked file be written."""
    about = {
        "what": what,
        "pid": os.getpid(),
        "host": platform.node(),
        "since": datetime.datetime.now().astimezone().isoformat(timespec="seconds"),
    }
    with contextlib.suppress(OSError):
        place.write_text(json.dumps(about), encoding="utf-8")


def _holder(place: Path) -> str | None:
    """The holder of a lock; None if it is unsigned."""
    try:
        about = json.loads(place.read_text(encoding="utf-8"))
        host = "" if about["host"] == platform.node() else f" on {about['host']}"
        return f"{about['what']} (process {about['pid']}{host}, since {about['since']})"
    except (OSError, ValueError, KeyError, TypeError):
        return None
