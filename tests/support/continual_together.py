"""Processes that learn into one memory file concurrently."""

import contextlib
import io
import time
from pathlib import Path

from nestling.cli.main import main


def learn(model: Path, memory: Path, number: int) -> None:
    """Learn a separate text with `nestling learn`, retrying while the file is locked."""
    text, code = f"the text of number {number}, " + "and on. " * 3, 1
    while code:
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = main(["learn", str(model), text, "--memory", str(memory), "--quiet"])
        if code:
            assert "in use by nestling learn (process" in told.getvalue(), told.getvalue()
            time.sleep(0.05)
