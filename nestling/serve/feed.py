"""Events of running jobs, for all listeners."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import Any

Event = dict[str, Any]
ONCE = ("questions", "surprise")  # fields of events that are sent once
OVER = ("done", "failed", "cancelled")
MOST = 200  # queue length of a listener; older events are dropped


class Feed:
    """Passes events of jobs from the learning thread to the listening event loops."""

    def __init__(self):
        self._lock = threading.Lock()
        self._made: dict[str, Event] = {}  # fields sent once for running jobs, for late listeners
        self._listeners: dict[str, list[tuple[Any, asyncio.Queue[Event]]]] = {}

    def tell(self, job: str, event: Event) -> None:
        """Send an event to the listeners of a job."""
        with self._lock:
            once = {name: event[name] for name in ONCE if name in event}
            if once:
                self._made.setdefault(job, {}).update(once)
            if event["state"] in OVER:
                self._made.pop(job, None)
            for loop, queue in self._listeners.get(job, ()):
                with contextlib.suppress(RuntimeError):  # the loop ended
                    loop.call_soon_threadsafe(_put, queue, event)

    def made(self, job: str) -> Event:
        """The last value of an event field of a running job that is sent only once."""
        with self._lock:
            return dict(self._made.get(job, {}))

    @contextlib.asynccontextmanager
    async def listening(self, job: str) -> AsyncGenerator[asyncio.Queue[Event]]:
        """A queue of the events of a job from now on."""
        queue: asyncio.Queue[Event] = asyncio.Queue(MOST)
        entry = (asyncio.get_running_loop(), queue)
        with self._lock:
            self._listeners.setdefault(job, []).append(entry)
        try:
            yield queue
        finally:
            with self._lock:
                self._listeners[job].remove(entry)
                if not self._listeners[job]:
                    del self._listeners[job]


def _put(queue: asyncio.Queue[Event], event: Event) -> None:
    if queue.full():
        queue.get_nowait()
    queue.put_nowait(event)
