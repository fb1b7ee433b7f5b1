"""Logs: a line of JSON per request and failure, which never contains a user's text."""

import json
import logging
import time
import traceback
from typing import Any

LOG = logging.getLogger("nestling.serve")


def note(event: str, **fields: Any) -> None:
    """Write a line."""
    LOG.info(json.dumps({"time": round(time.time(), 3), "event": event, **fields}))


def failed(event: str, error: BaseException) -> None:
    """Log where something failed, without the error's message, which may contain user text."""
    frames = traceback.extract_tb(error.__traceback__)[-6:]
    place = [f"{frame.filename}:{frame.lineno} {frame.name}" for frame in frames]
    note(f"{event} failed", error=type(error).__name__, at=place)
