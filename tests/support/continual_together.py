"""Children that learn into one memory file at once; run as a program of its own.

    python continual_together.py MODEL MEMORY CHILDREN

Each child learns a text of its own by `nestling learn`, and tries again whenever it is told that
another holds the file. Prints `ok CHILDREN refused N` once all have learned and the memory has
every text.
"""

import contextlib
import io
import os
import sys
import time
from pathlib import Path

from nestling.cli.main import main
from nestling.continual import opening, session  # noqa: F401  children find them imported
from nestling.continual.file import read_memory
from nestling.models.pretrained import load_stacked


def learn(model: str, memory: Path, number: int) -> int:
    """Learn one text; how often that was refused since another held the file."""
    text, refused = f"the text of number {number}, " + "and on. " * 3, 0
    while True:
        told = io.StringIO()
        with contextlib.redirect_stderr(told), contextlib.redirect_stdout(io.StringIO()):
            code = main(["learn", model, text, "--memory", str(memory), "--quiet"])
        if code == 0:
            return refused
        assert "in use: nestling learn (process" in told.getvalue(), told.getvalue()
        refused += 1
        time.sleep(0.05)


def run(model: str, memory: Path, children: int) -> None:
    load_stacked(model)  # what is imported late is there before the children are
    pids = []
    for number in range(children):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        try:
            refused = learn(model, memory, number)
            memory.with_name(f"refused.{number}").write_text(str(refused))
        except BaseException as error:
            print("child:", repr(error), file=sys.stderr, flush=True)
            os._exit(1)
        os._exit(0)
    assert all(os.waitpid(pid, 0)[1] == 0 for pid in pids)
    digests = {digest for _, digest, *_ in read_memory(memory).about["documents"]}
    assert len(digests) == children, f"{len(digests)} of {children} texts are left"
    counts = [int(file.read_text()) for file in memory.parent.glob("refused.*")]
    assert not list(memory.parent.glob("*.lock"))
    print(f"ok {children} refused {sum(counts)}")


if __name__ == "__main__":
    run(sys.argv[1], Path(sys.argv[2]), int(sys.argv[3]))
