"""The progress callback of a measurement."""

from collections.abc import Callable

Tell = Callable[[int, int], None]  # done, of all


def silent(done: int, count: int) -> None:
    """A callback that does nothing."""
