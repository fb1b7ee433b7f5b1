"""Forked children that learn and are killed at random points."""

import os
import random
import signal
import sys
import time
from pathlib import Path

from nestling.continual.file import read_memory
from nestling.continual.opening import open_learner
from nestling.continual.session import Session
from nestling.models.pretrained import load_stacked, parse_levels

LEVELS, PERIOD = "8:1e-2,32:1e-2", 8
DOCUMENTS = [(f"text {i}", f"{i} of the texts, " + "which goes on and on. " * 6) for i in range(2)]


def child(base, memory: Path, log: Path) -> int:
    """Fork; the child reads all documents into ``memory`` and logs each closed period."""
    pid = os.fork()
    if pid:
        return pid
    try:
        learner = open_learner(base, memory)
        session = Session(learner=learner, memory=memory)
        with log.open("w") as file:

            def show(name, done, total, reading):
                file.write(f"{learner.state.stream.tokens}\n")
                file.flush()

            session.show = show
            session.read(DOCUMENTS)
    except BaseException as error:
        print("child:", repr(error), file=sys.stderr)
        os._exit(1)
    os._exit(0)


def check(memory: Path, log: Path) -> int:
    """Tokens in the file; it must hold every period that the child had closed and saved."""
    lines = log.read_text().split("\n")[:-1] if log.exists() else []
    if not memory.exists():
        assert not lines, "a period had closed and there is no file"
        return 0
    tokens = read_memory(memory).about["stream"]["tokens"]
    closed = int(lines[-1]) if lines else 0
    assert tokens >= closed, f"{tokens} tokens in the file, {closed} had closed"
    return tokens


def wait_for(pid: int, log: Path, lines: int) -> float:
    """Wait for ``lines`` periods of the child, or its end; returns the last period's seconds."""
    began = before = time.monotonic()
    seen = 0
    while seen < lines and os.waitid(os.P_PID, pid, os.WEXITED | os.WNOHANG | os.WNOWAIT) is None:
        now = log.read_text().count("\n") if log.exists() else 0
        if now > seen:
            seen, began, before = now, before, time.monotonic()
        time.sleep(0.001)
    return before - began


def main(folder: Path, place: Path, kills: int) -> int:
    """The number of killed readings that had resumed from another.

    The file was whole after each kill and held every period that had closed, and the memory in the
    end equals that of a reading without a break.
    """
    base = load_stacked(folder, parse_levels(LEVELS))
    draw = random.Random(0)
    whole, memory, log = place / "whole", place / "killed", place / "log"
    _, status = os.waitpid(child(base, whole, log), 0)
    assert status == 0
    done = resumed = 0
    while done < kills:
        log.unlink(missing_ok=True)
        before = check(memory, log)
        pid = child(base, memory, log)
        # anywhere after the second to fourth period, at any machine speed
        time.sleep(draw.random() * wait_for(pid, log, draw.randint(2, 4)))
        os.kill(pid, signal.SIGKILL)
        _, status = os.waitpid(pid, 0)
        assert status in (0, signal.SIGKILL), status
        done += status == signal.SIGKILL
        after = check(memory, log)
        assert after >= before, "a kill has lost what was there before"
        resumed += before > 0
        if status == 0:
            assert memory.read_bytes() == whole.read_bytes()
            memory.unlink()
    _, status = os.waitpid(child(base, memory, log), 0)
    assert status == 0 and memory.read_bytes() == whole.read_bytes()
    return resumed
