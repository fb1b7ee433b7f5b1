"""Learns and asks through the command line like a user, each command in its own process."""

import atexit
import json
import os
import resource
import shutil
import subprocess
import sys
import tempfile
import time
from collections.abc import Sequence
from functools import cache
from pathlib import Path
from typing import Any

from nestling.core.result import Result


@cache
def adapted(model: str, *options: str) -> str:
    """The folder of an adapted model, created once per process and deleted at its end.

    ``options`` are those of `nestling adapt`.
    """
    folder = tempfile.mkdtemp()
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    _python("nestling", "adapt", model, "--out", f"{folder}/model", *options)
    return f"{folder}/model"


def learn(
    model: str,
    text: str,
    memory: Path,
    *,
    name: str = "text.txt",
    about: str = "",
    device: str = "cpu",
) -> dict[str, Any]:
    """Read a text into a memory file with `nestling learn`; return the outcome and the cost.

    ``about`` is its subject, if that is given.
    """
    with tempfile.TemporaryDirectory() as folder:
        source, figures = Path(folder, name), Path(folder, "learn.json")
        source.write_text(text + "\n", encoding="utf-8")
        cpu, wall = _spent(), time.monotonic()
        given = [str(source), "--memory", str(memory), "--json", str(figures), "--quiet"]
        given += ["--about", about] if about else []
        _python("nestling", "learn", model, *given, "--device", device)
        cpu, wall = _spent() - cpu, time.monotonic() - wall
        metrics = Result.read(figures).metrics
    return {
        "cpu_seconds": cpu,
        "wall_seconds": wall,
        "bytes": memory.stat().st_size,
        "tokens": sum(read["tokens"] for read in metrics["read"]),
        "study": metrics["study"][0],
    }


def ask(
    model: str, memory: Path, text: str, questions: Sequence[str], ways: Sequence[str]
) -> dict[str, list[str]]:
    """Replies by way, from a process that sees of the text only what the way provides."""
    given = {"text": text, "questions": list(questions), "ways": list(ways)}
    said = _python(f"{__package__}.asked_anew", model, str(memory), given=json.dumps(given))
    return json.loads(said)


def peak_bytes() -> int:
    """The peak memory of any child process that has ended, in bytes."""
    return 1024 * resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss


def _python(module: str, *words: str, given: str = "") -> str:
    line = [sys.executable, "-m", module, *words]
    return subprocess.run(line, check=True, input=given, stdout=subprocess.PIPE, text=True).stdout


def _spent() -> float:
    """The CPU seconds of child processes that have ended."""
    times = os.times()
    return times.children_user + times.children_system
