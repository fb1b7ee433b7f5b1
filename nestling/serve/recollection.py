"""Answers from what memories have studied, recalled and checked as by `nestling ask`."""

import asyncio
from collections import OrderedDict
from concurrent.futures import ThreadPoolExecutor

from nestling.continual.learner import ContinualLearner
from nestling.continual.study.recall import Reply, recall
from nestling.serve.errors import Refused
from nestling.serve.library import Memory
from nestling.serve.logs import failed
from nestling.serve.model import Served


class Recollection:
    """Recalls one answer at a time, in its own thread; the memories used last stay loaded."""

    def __init__(self, served: Served, *, waiting: int, most: int = 4):
        self.served, self.waiting, self.most = served, waiting, most
        self._kept: OrderedDict[str, ContinualLearner] = OrderedDict()
        # a cancelled request leaves its thread running; the next one must wait for it
        self._thread = ThreadPoolExecutor(1, "recalling")
        self._count = 0

    async def of(self, memory: Memory, question: str) -> Reply | None:
        """The reply of a memory to a question; None: nothing studied fits it.

        Raises Refused if too many wait, or if it fails.
        """
        if self._count >= self.waiting:
            raise Refused(503, "the server is busy; ask again in a moment", "overloaded")
        self._count += 1
        try:
            loop = asyncio.get_running_loop()
            return await loop.run_in_executor(self._thread, self._recalled, memory, question)
        except Exception as error:
            failed("recollection", error)
            raise Refused(503, "the answer was interrupted; ask again", "broken_off") from error
        finally:
            self._count -= 1

    def stop(self) -> None:
        """End the thread after the current question."""
        self._thread.shutdown(cancel_futures=True)

    def _recalled(self, memory: Memory, question: str) -> Reply | None:
        key = memory.key
        if key not in self._kept:
            learner = self.served.recaller.fork()
            learner.load(memory.known)
            self._kept[key] = learner
        self._kept.move_to_end(key)
        while len(self._kept) > self.most:
            self._kept.popitem(last=False)
        learner = self._kept[key]
        return recall(learner.school, question) if learner.state.studied else None
