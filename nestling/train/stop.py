"""Stops a run after the current step when it is asked to."""

import contextlib
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any


class Stop(threading.Event):
    """Set by the first Ctrl-C, or by the SIGTERM that schedulers send before they stop a job."""

    terminated = False  # by SIGTERM: nothing failed, the run continues elsewhere

    def _hear(self, number: int, frame: Any) -> None:
        if number == signal.SIGTERM:
            self.terminated = True
            print("terminated; stopping after this step", file=sys.stderr)
        elif self.is_set():
            raise KeyboardInterrupt
        else:
            print("stopping after this step; Ctrl-C again stops at once, unsaved", file=sys.stderr)
        self.set()


@contextlib.contextmanager
def stoppable() -> Generator[Stop]:
    """An event that the first Ctrl-C or a SIGTERM sets; a second Ctrl-C interrupts at once.

    Outside the main thread, where Python handles no signals, nothing sets it.
    """
    stop = Stop()
    if threading.current_thread() is not threading.main_thread():
        yield stop
        return
    signals = (signal.SIGINT, signal.SIGTERM)
    previous = {number: signal.signal(number, stop._hear) for number in signals}
    try:
        yield stop
    finally:
        for number, handler in previous.items():
            signal.signal(number, handler)
