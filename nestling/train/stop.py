"""A run that is asked to stop ends after the step it is in."""

import contextlib
import signal
import sys
import threading
from collections.abc import Generator
from typing import Any


class Stop(threading.Event):
    """Set by the first Ctrl-C, or the SIGTERM that schedulers send before they take a machine."""

    terminated = False  # it was SIGTERM: the run is to go on elsewhere, nothing has failed

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

    Outside the main thread, where Python takes no signals, nothing sets it.
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
