"""Events of running jobs, for all listeners."""

import asyncio
import contextlib
import threading
from collections.abc import AsyncGenerator
from typing import Any

Event = dict[str, Any]
ONCE = ("questions", "surprise")  # parts of events that are not told again
OVER = ("done", "failed", "cancelled")
MOST = 200  # events a listener may be behind; then older ones are left out


class Feed:
    """Passes events of jobs from the learning thread to the listening event loops."""

    def __init__(self):
        self._lock = threading.Lock()
        self._made: dict[str, Event] = {}  # what is told once of jobs that run, for late listeners
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
                with contextlib.suppress(RuntimeError):  # the loop has ended
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
