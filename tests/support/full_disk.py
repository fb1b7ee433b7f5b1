"""A command with a full disk, to be run in a separate process."""

import contextlib
import io
import resource

from nestling.cli.main import main


def on_a_full_disk(arguments: list[str]) -> tuple[int, str]:
    """Its exit code and output; a file size limit simulates the full disk."""
    resource.setrlimit(resource.RLIMIT_FSIZE, (20000, 20000))
    told = io.StringIO()
    with contextlib.redirect_stderr(told):
        code = main(arguments)
    return code, told.getvalue()
