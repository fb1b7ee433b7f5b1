"""Files locked by another process; as a program, locks the given files until stdin closes."""

import contextlib
import os
import signal
import subprocess
import sys
from pathlib import Path

WHAT = "nestling rehearse"


@contextlib.contextmanager
def held(*paths):
    """A child that holds ``paths``; yields the process, killed in the end if it still runs."""
    command = [sys.executable, str(Path(__file__).resolve()), *map(str, paths)]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True, env=dict(os.environ)
    ) as child:
        try:
            assert child.stdout.readline() == "held\n"
            yield child
        finally:
            if child.poll() is None:
                child.send_signal(signal.SIGKILL)


if __name__ == "__main__":
    from nestling.data.lock import locked

    with contextlib.ExitStack() as all_of_them:
        for name in sys.argv[1:]:
            all_of_them.enter_context(locked(name, WHAT))
        print("held", flush=True)
        sys.stdin.read()
