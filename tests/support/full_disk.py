"""A command where the disk is full, to be run in a process of its own."""

import contextlib
import io
import resource

from nestling.cli.main import main


def on_a_full_disk(arguments: list[str]) -> tuple[int, str]:
    """Its exit code and what it says; a limit on the size of files stands in for the disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = main(arguments)
    return code, told.getvalue()
