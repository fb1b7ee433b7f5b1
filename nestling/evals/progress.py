"""Progress callbacks of measurements."""

from collections.abc import Callable

Tell = Callable[[int, int], None]  # (done, total)


def silent(done: int, count: int) -> None:
    """A callback that does nothing."""
