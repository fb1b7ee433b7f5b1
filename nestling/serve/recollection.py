"""Answers from what memories have studied, recalled and checked as by `nestling ask`."""

import asyncio
from collections import OrderedDict
from pathlib import Path

from starlette.concurrency import run_in_threadpool

from nestling.continual.learner import ContinualLearner
from nestling.continual.study.recall import Reply, recall
from nestling.serve.errors import Refused
from nestling.serve.model import Served


class Recollection:
    """Recalls one answer at a time, in a thread; the memories used last stay loaded."""

    def __init__(self, served: Served, *, waiting: int, most: int = 4):
        self.served, self.waiting, self.most = served, waiting, most
        self._kept: OrderedDict[str, ContinualLearner] = OrderedDict()
        self._turn = asyncio.Lock()
        self._count = 0

    async def of(self, key: str, files: tuple[Path, ...], question: str) -> Reply | None:
        """The reply that a memory has to a question; None: nothing worth saying was studied.

        ``key`` identifies the first of ``files`` that exists, and its version. Raises Refused if
        too many wait.
        """
        if self._count >= self.waiting:
            raise Refused(503, "the server is busy; ask again in a moment", "overloaded")
        self._count += 1
        try:
            async with self._turn:
                return await run_in_threadpool(self._recalled, key, files, question)
        finally:
            self._count -= 1

    def _recalled(self, key: str, files: tuple[Path, ...], question: str) -> Reply | None:
        if key not in self._kept:
            learner = self.served.recaller.fork()
            learner.load(next((file for file in files[:-1] if file.exists()), files[-1]))
            self._kept[key] = learner
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        learner = self._kept[key]
        return recall(learner.school, question) if learner.state.studied else None
