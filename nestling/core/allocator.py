"""Memory that a training step frees and the next one needs again."""

import ctypes
import platform

_TRIM_THRESHOLD, _TOP_PAD, _MMAP_THRESHOLD = -1, -2, -3  # of mallopt(3)


def keep_freed_memory() -> bool:
    """Ask the C library not to give freed pages back to the system between steps.

    glibc returns large blocks at once, so that every step faults its pages in again; on CPU this
    costs up to half of the time of a step. Affects the whole process, so only programs call it
    (the command line does), never an import. Returns whether the C library took the request.
    """
    if platform.libc_ver()[0] != "glibc":
        return False
    library = ctypes.CDLL(None)
    settings = ((_MMAP_THRESHOLD, 32 << 20), (_TRIM_THRESHOLD, (2 << 30) - 1), (_TOP_PAD, 64 << 20))
    return all(library.mallopt(name, value) == 1 for name, value in settings)
