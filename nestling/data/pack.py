"""Packs documents into batches; each row of a batch continues in the next batch."""

from collections.abc import Callable
from typing import NamedTuple

import torch
from jaxtyping import Bool, Int
from torch import Tensor

from nestling.core.error import UserError
from nestling.data.tokens import Documents

IGNORED = -100  # label of a position without a target; the default of torch's cross_entropy


class Batch(NamedTuple):
    """The input of one forward pass: T positions of B streams."""

    input_ids: Int[Tensor, "B T"]
    labels: Int[Tensor, "B T"]  # the next token of the same document; -100 where there is none
    reset: Bool[Tensor, "B T"]  # a document starts here
    mask: Bool[Tensor, "B T"]  # False at padding, which must change no state

    def to(self, device: torch.device | str) -> "Batch":
        """Copy the batch to a device."""
        return Batch(*(part.to(device, non_blocking=True) for part in self))


class Packer:
    """Fills B rows from a queue of documents.

    A row that has finished a document takes the next one from the queue, at the next multiple of
    ``align`` positions; the positions between are padding. A document that does not fit into the
    rest of the row continues in the same row of the next batch.
    """

    def __init__(
        self,
        documents: Documents,
        *,
        batch_size: int,
        sequence_length: int,
        align: int = 1,
        following: Callable[[], int | None],
    ):
        """``following`` returns the index of the next document, or None at the end."""
        if min(batch_size, sequence_length, align) < 1:
            raise UserError(
                f"batch_size is {batch_size}, sequence_length {sequence_length}, align {align}; "
                "each must be at least 1"
            )
        if sequence_length % align:
            raise UserError(
                f"sequence_length is {sequence_length}, not a multiple of the memory period "
                f"{align}; choose {max(1, round(sequence_length / align)) * align}"
            )
        self.documents = documents
        self.shape = (batch_size, sequence_length)
        self.align = align
        self.following = following
        # rows whose tokens are read here. The others, read by another process, advance as well:
        # their mask and resets are right, their labels 0, so that targets can be counted
        self.read = range(batch_size)
        self.rows: list[tuple[int, int] | None] = [None] * batch_size  # open (document, offset)

    def batch(self) -> Batch:
        """The next T positions of every row."""
        batch = Batch(
            input_ids=torch.full(self.shape, self.documents.pad_id, dtype=torch.int64),
            labels=torch.full(self.shape, IGNORED, dtype=torch.int64),
            reset=torch.zeros(self.shape, dtype=torch.bool),
            mask=torch.zeros(self.shape, dtype=torch.bool),
        )
        for row in range(self.shape[0]):
            self._fill(row, Batch(*(part[row : row + 1] for part in batch)))
        return batch

    def _fill(self, row: int, part: Batch) -> None:
        """Write the next positions of one row into ``part``, the views of that row."""
        place, length = 0, self.shape[1]
        while place < length:
            if self.rows[row] is None:
                index = self.following()
                if index is None:
                    return
                self.rows[row] = (index, 0)
            place += self._copy(row, part, place)
            place += -place % self.align

    def _copy(self, row: int, part: Batch, place: int) -> int:
        """Copy from the row's open document to ``place``; return the number of positions."""
        index, offset = self.rows[row] or (0, 0)
        start, stop = self.documents.bounds[index : index + 2].tolist()
        start += offset
        taken = min(stop - 1 - start, self.shape[1] - place)
        there = slice(place, place + taken)
        if row in self.read:
            tokens = self.documents.ids[start : start + 1 + taken]
            part.input_ids[0, there], part.labels[0, there] = tokens[:-1], tokens[1:]
        else:
            part.labels[0, there] = 0
        part.mask[0, there] = True
        part.reset[0, place] = offset == 0
        self.rows[row] = None if start + taken == stop - 1 else (index, offset + taken)
        return taken


def positions(
    batch: Batch, before: Int[Tensor, "B"] | None = None
) -> tuple[Int[Tensor, "B T"], Int[Tensor, "B"]]:
    """The position of every token in its document, from 0, and the carry for the next batch.

    ``before`` is the carry returned for the previous batch; None at the beginning. Positions of
    padding are arbitrary.
    """
    count = batch.mask.long().cumsum(1)
    if before is not None:
        count = count + before[:, None]
    at_start = torch.where(batch.reset, count - 1, torch.full_like(count, -1))
    start = at_start.cummax(1).values.clamp(min=0)
    place = count - 1 - start
    return place, place[:, -1] + 1
