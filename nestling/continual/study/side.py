"""Runs parts of a step in parallel, one thread per part.

Threads within operations would synchronise thousands of times per step; these do so once.
"""

from collections.abc import Callable, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import torch

T = TypeVar("T")
R = TypeVar("R")
MOST = 4  # maximum number of parts, as each reads the opening of its row again


class Side:
    """Applies a function to several parts in parallel, each with an equal share of the threads.

    On a GPU, or with a single thread, there is only one part.
    """

    def __init__(self, device: torch.device):
        threads = torch.get_num_threads()
        self.count = min(threads, MOST) if device.type == "cpu" else 1
        self._pool = None
        if self.count > 1:
            own = threads // self.count
            self._pool = ThreadPoolExecutor(
                self.count, "study", initializer=torch.set_num_threads, initargs=(own,)
            )

    def map(self, function: Callable[[T], R], parts: Sequence[T]) -> list[R]:
        """The results, in the order of the parts."""
        if self._pool is None or len(parts) < 2:
            return [function(part) for part in parts]
        threads = torch.get_num_threads()
        try:
            return list(self._pool.map(function, parts))
        finally:
            torch.set_num_threads(threads)  # the setting of a worker is inherited by new threads


def even(sizes: Sequence[int], count: int) -> list[list[int]]:
    """Indices split into ``count`` parts of about equal size, largest first, without empty ones.

    >>> even([5, 1, 4, 2], 2)
    [[0, 1], [2, 3]]
    """
    parts: list[list[int]] = [[] for _ in range(count)]
    filled = [0] * count
    for number in sorted(range(len(sizes)), key=lambda n: -sizes[n]):
        least = filled.index(min(filled))
        parts[least].append(number)
        filled[least] += sizes[number]
    return [sorted(part) for part in parts if part]


def neighbours(sizes: Sequence[int], room: int) -> list[slice]:
    """Group neighbours whose total size is at most ``room``; larger ones are alone.

    >>> neighbours([3, 2, 4, 9], 5)
    [slice(0, 2, None), slice(2, 3, None), slice(3, 4, None)]
    """
    found, begin, filled = [], 0, 0
    for number, size in enumerate(sizes):
        if number > begin and filled + size > room:
            found.append(slice(begin, number))
            begin, filled = number, 0
        filled += size
    return [*found, slice(begin, len(sizes))] if sizes else found
