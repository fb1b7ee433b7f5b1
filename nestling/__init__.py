"""Language models that keep learning: Nested Learning and its model Hope."""

import importlib
from types import ModuleType

from nestling.register import register

__version__ = "0.1.0"

_ROOMS = ("core", "data", "memories", "models", "ops", "optim", "tasks", "train")


def __getattr__(name: str) -> ModuleType:
    """Import a room when it is first asked for: ``nestling.models`` after ``import nestling``."""
    if name in _ROOMS:
        return importlib.import_module(f"nestling.{name}")
    raise AttributeError(f"module 'nestling' has no attribute {name!r}")


register()
