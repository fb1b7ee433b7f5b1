"""Token ids in memory-mapped files."""

from bisect import bisect_right
from collections.abc import Sequence
from itertools import accumulate
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from jaxtyping import Int
from torch import Tensor

from nestling.core.error import UserError


class MappedIds:
    """The ids of several files, end to end; a slice is read as an int32 tensor.

    ``dtype`` is that of the numbers in the files. The operating system caches and drops the pages
    of the files, so an open one occupies no memory of its own.
    """

    def __init__(self, files: Sequence[Path], dtype: str):
        self._parts = [_map(file, dtype, "r") for file in files]
        self._starts = [0, *accumulate(map(len, self._parts))]

    def __len__(self) -> int:
        return self._starts[-1]

    def __getitem__(self, where: slice) -> Int[Tensor, " N"]:
        """The ids from ``where.start`` to ``where.stop``."""
        start, stop, step = where.indices(len(self))
        if step != 1:
            raise ValueError(
                "a slice of MappedIds has no step; slice first, then take every nth id"
            )
        found = []
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            offset, end = start - self._starts[number], min(stop, self._starts[number + 1])
            found.append(self._parts[number][offset : offset + end - start].astype(np.int32))
            start = end
        return torch.from_numpy(np.concatenate(found) if found else np.empty(0, dtype=np.int32))


def map_bounds(file: Path) -> Int[Tensor, " D1"]:
    """The first position of every document of a side, and the end of the last (int64, mapped)."""
    # copy on write, because torch warns about read-only memory; nobody writes to it
    return torch.from_numpy(_map(file, "<i8", "c"))


def _map(file: Path, dtype: str, mode: Literal["r", "c"]) -> np.ndarray:
    try:
        return np.memmap(file, dtype=dtype, mode=mode)
    except (OSError, ValueError) as error:  # ValueError: numpy, if the size does not fit the dtype
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {file}: {reason}; check its permissions") from error
