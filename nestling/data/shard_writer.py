"""Writes the token shards of a folder; an interrupted write continues to the same bytes."""

import hashlib
import os
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from nestling.core.error import UserError
from nestling.data.shards import check_file


class SideWriter:
    """Writes the shards of one side, one at a time.

    ``shards`` are the complete ones, each with the number of source texts read when it was closed:
    all texts before ``done`` are in complete shards. A shard that was open when a process ended is
    written again.
    """

    def __init__(
        self, folder: Path, name: str, dtype: str, size: int, shards: list[dict[str, Any]]
    ):
        """A shard is closed at the end of the document that brings it to ``size`` tokens."""
        self.folder, self.name, self.dtype, self.size = folder, name, dtype, size
        self.shards = shards
        self.tokens = sum(shard["tokens"] for shard in shards)
        self._lengths: list[int] = []
        self._open = 0  # tokens of the open shard
        self._digest = hashlib.sha256()
        self._file: BinaryIO | None = None
        for left in folder.glob(f"{name}-*.bin"):
            if left.name not in {shard["file"] for shard in shards}:
                left.unlink()
        self._bounds = folder / f"{name}.bounds"
        self._cut_bounds()

    @property
    def done(self) -> int:
        """The number of source texts that need not be read again for this side."""
        return self.shards[-1]["after"] if self.shards else 0

    def _cut_bounds(self) -> None:
        """Truncate the bounds to the documents in complete shards."""
        count = 1 + sum(shard["documents"] for shard in self.shards)
        if not self._bounds.exists():
            self._bounds.write_bytes(bytes(8))
        os.truncate(self._bounds, 8 * count)

    def add(self, ids: np.ndarray, after: int) -> bool:
        """Write a document and return whether that closed a shard.

        ``after`` is the number of source texts read so far.
        """
        if self._file is None:
            self._file = open(self._path(), "wb")  # noqa: SIM115 closed with the shard
        content = ids.astype(self.dtype).tobytes()
        self._file.write(content)
        self._digest.update(content)
        self._lengths.append(len(ids))
        self._open += len(ids)
        if self._open >= self.size:
            self.close(after)
            return True
        return False

    def _path(self) -> Path:
        return self.folder / f"{self.name}-{len(self.shards):05d}.bin"

    def close(self, after: int) -> None:
        """Complete the open shard, if there is one."""
        if self._file is None:
            return
        ends = self.tokens + np.cumsum(self._lengths, dtype="<i8")
        with open(self._bounds, "ab") as bounds:
            bounds.write(ends.tobytes())
            _settle(bounds)
        _settle(self._file)
        self._file.close()
        self.shards.append(
            {
                "file": self._path().name,
                "documents": len(self._lengths),
                "tokens": self._open,
                "bytes": self._open * np.dtype(self.dtype).itemsize,
                "sha256": self._digest.hexdigest(),
                "after": after,
            }
        )
        self.tokens += self._open
        self._lengths, self._open = [], 0
        self._digest, self._file = hashlib.sha256(), None


def _settle(file: BinaryIO) -> None:
    file.flush()
    os.fsync(file.fileno())


def dtype_of(vocab_size: int) -> str:
    """The dtype in which ids of a vocabulary are stored.

    >>> dtype_of(65536), dtype_of(65537)
    ('<u2', '<u4')
    """
    return "<u2" if vocab_size <= 2**16 else "<u4"


def sound(folder: Path, name: str, shards: Iterable[Mapping[str, Any]]) -> list[dict[str, Any]]:
    """The recorded shards, up to the first that is missing or changed, bounds included."""
    bounds = folder / f"{name}.bounds"
    room = bounds.stat().st_size // 8 - 1 if bounds.exists() else 0  # documents
    found: list[dict[str, Any]] = []
    for shard in shards:
        room -= shard["documents"]
        try:
            check_file(folder / shard["file"], shard)
        except UserError:
            break
        if room < 0:
            break
        found.append(dict(shard))
    return found
