"""Settings of the C library for freed memory: keep it for the next step, or share it."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD, _ARENA_MAX = -1, -2, -3, -8  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed pages back to the system between steps.

    glibc returns large blocks at once, so every step faults its pages in again, which on a CPU
    costs up to half of the time of a step. This affects the whole process, so only programs call
    it (the command line does), never an import. Returns whether the C library accepted the request.
    """
    return _set((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (2 << 30) - 1), (_TOP_PAD, 64 << 20))


def share_freed_memory() -> bool:
    """Ask the C library to let all threads of a process reuse the same freed memory.

    Otherwise each of the many threads of a server has its own heap, and the process grows for as
    long as it runs. Returns whether the C library accepted the request.
    """
    return _set((_ARENA_MAX, 2))


def _set(*settings: tuple[int, int]) -> bool:
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    return all(library.mallopt(name, value) == 1 for name, value in settings)
