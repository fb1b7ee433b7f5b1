"""Questions with known answers; a task never sees a model."""

from nestling.core.registry import Registry
from nestling.tasks.task import IGNORED, Examples, Task

TASKS = Registry("task", {"recall": "nestling.tasks.recall:Recall"})

__all__ = ["IGNORED", "TASKS", "Examples", "Task"]
