"""Suites: named sets of tasks."""

from nestling.core.error import UserError, did_you_mean
from nestling.tasks import TASKS

# suites of tasks with different prefixes, or with only some of a prefix
NAMED = {
    "paper-niah": (
        "niah-1", "niah-2", "niah-3", "niah-multi-key", "niah-multi-query", "niah-multi-value",
    ),
}  # fmt: skip


def suite_names() -> list[str]:
    """The names of all suites: the prefixes of task names, and the named sets."""
    return list(dict.fromkeys([*(name.split("-")[0] for name in TASKS.names()), *NAMED]))


def suite(name: str) -> list[str]:
    """The tasks of a suite, in table order; the name of a task is a suite of one.

    >>> suite("niah")[:2], suite("recall")[0]
    (['niah-1', 'niah-2'], 'recall')
    """
    if name in NAMED:
        return list(NAMED[name])
    if name in TASKS.names():
        begun = [task for task in TASKS.names() if task.startswith(f"{name}-")]
        return [name, *begun]
    found = [task for task in TASKS.names() if task.split("-")[0] == name]
    if not found:
        known = [*suite_names(), *TASKS.names()]
        raise UserError(f"unknown suite {name!r}: {did_you_mean(name, known)}")
    return found
