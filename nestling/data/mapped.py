"""Token ids that lie in files and are read where they are looked at."""

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
    """The ids in several files, end to end; a slice is a tensor of int32, all else stays on disk.

    ``dtype`` is that of the numbers in the files. An open file takes no memory of its own: the
    system keeps and drops its pages as it likes.
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
            raise ValueError("ids are read in their order: a slice has no step")
        found = []
        while start < stop:
            number = bisect_right(self._starts, start) - 1
            offset, end = start - self._starts[number], min(stop, self._starts[number + 1])
            found.append(self._parts[number][offset : offset + end - start].astype(np.int32))
            start = end
        return torch.from_numpy(np.concatenate(found) if found else np.empty(0, dtype=np.int32))


def map_bounds(file: Path) -> Int[Tensor, " D1"]:
    """Where the documents of a side begin and the last one ends, int64, as a mapped file."""
    # copy on write: torch takes no memory that cannot be written, and nobody writes it
    return torch.from_numpy(_map(file, "<i8", "c"))


def _map(file: Path, dtype: str, mode: Literal["r", "c"]) -> np.ndarray:
    try:
        return np.memmap(file, dtype=dtype, mode=mode)
    except (OSError, ValueError) as error:  # numpy's own for a file of no such numbers
        reason = getattr(error, "strerror", None) or error
        raise UserError(f"cannot read {file}: {reason}; check its rights") from error
