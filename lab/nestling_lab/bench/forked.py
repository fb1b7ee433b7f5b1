"""Processes of a `nestling` command, forked from one that has already imported torch.

Such a process starts working almost at once, and can be killed like any other.
"""

import multiprocessing
import os
import socket
import sys
import time
from collections.abc import Sequence
from pathlib import Path

import torch

from nestling.cli.main import main
from nestling.core.error import UserError

# the imports of a training run; the fork server starts with the first process
IMPORTED = ["nestling.cli.train", "nestling.train.job", "nestling.train.sharding"]
IMPORTED += ["nestling.train.sharded_files", "nestling.models.hf"]


class Processes:
    """One command on ``ranks`` processes, connected like those of ``torchrun``.

    Their output goes to the file ``told``.
    """

    def __init__(self, arguments: Sequence[str], *, ranks: int = 1, told: Path):
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(IMPORTED)
        places = _places(ranks)
        self.all = [
            context.Process(target=_run, args=(list(arguments), place, str(told)), daemon=True)
            for place in places
        ]
        for process in self.all:
            process.start()

    def running(self) -> bool:
        """Whether any of them is still running."""
        return any(process.is_alive() for process in self.all)

    def end(self) -> None:
        """Kill all of them at once."""
        for process in self.all:
            process.kill()
        for process in self.all:
            process.join()

    def wait(self, seconds: float) -> list[int]:
        """The exit code of each, negative for a signal. Raises UserError after a timeout."""
        until = time.monotonic() + seconds
        for process in self.all:
            process.join(max(0.0, until - time.monotonic()))
        if self.running():
            self.end()
            raise UserError(f"a run is still going after {seconds:.0f} s")
        return [process.exitcode or 0 for process in self.all]


def _places(ranks: int) -> list[dict[str, str]]:
    """The environment variables with which several processes find each other."""
    if ranks == 1:
        return [{}]
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    shared = {"WORLD_SIZE": str(ranks), "LOCAL_WORLD_SIZE": str(ranks)}
    shared |= {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port)}
    return [shared | {"RANK": str(rank), "LOCAL_RANK": str(rank)} for rank in range(ranks)]


def _run(arguments: list[str], place: dict[str, str], told: str) -> None:
    os.environ |= place
    file = os.open(told, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
    for stream in (1, 2):
        os.dup2(file, stream)
    torch.set_num_threads(1)
    sys.exit(main(arguments))
