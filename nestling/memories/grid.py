"""Assign the tokens of a call to the mini-batches of their rows."""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Int, Shaped
from torch import Tensor

from nestling.core.memory import Flow


class Grid(NamedTuple):
    """Each row of a call, cut into its own M mini-batches of up to R tokens.

    Rows at different positions in their documents are processed together, one mini-batch at a time.
    Masked tokens are not in the grid.
    """

    shape: tuple[int, int]  # M, R
    place: Int[Tensor, "B T"]  # each token's place among the M R; M R if it is masked
    position: Int[Tensor, "B T"]  # each token's place in its mini-batch, from 0
    opens: Bool[Tensor, "B M"]  # a document starts with this mini-batch
    closes: Bool[Tensor, "B M"]  # the last token of this mini-batch is in this call
    count: Int[Tensor, " B"]  # tokens of the open document after this call

    def spread(self, x: Shaped[Tensor, "B T *N"]) -> Shaped[Tensor, "B M R *N"]:
        """Scatter the tokens to their places in the grid; empty places are zero."""
        mini_batches, width = self.shape
        empty = x.new_zeros(len(x), mini_batches * width + 1, *x.shape[2:])
        filled = empty.scatter(1, self._index(x), x)
        return filled[:, :-1].unflatten(1, self.shape)

    def collect(self, y: Shaped[Tensor, "B M R *N"]) -> Shaped[Tensor, "B T *N"]:
        """Gather the tokens from their places in the grid; masked ones are zero."""
        flat = y.flatten(1, 2)
        padded = torch.cat((flat, flat.new_zeros(len(y), 1, *flat.shape[2:])), dim=1)
        return padded.gather(1, self._index(flat))

    def _index(self, x: Tensor) -> Int[Tensor, "B T *N"]:
        wide = self.place.view(*self.place.shape, *(1,) * (x.ndim - 2))
        return wide.expand(*self.place.shape, *x.shape[2:])


def grid(count: Int[Tensor, " B"], flow: Flow, length: int, period: int) -> Grid:
    """Cut every row into mini-batches of ``period`` tokens, counted from its documents' starts.

    ``count`` is the tokens each row's document has so far; ``length`` at least one token.
    """
    nothing = torch.zeros(len(count), length, dtype=torch.bool, device=count.device)
    reset = nothing if flow.reset is None else flow.reset
    valid = ~nothing if flow.mask is None else flow.mask
    seen = valid.long().cumsum(1)
    # tokens of this call before the open document; negative if it started in an earlier call
    before = torch.where(reset, seen - valid.long(), -1).cummax(1).values
    index = torch.where(before >= 0, seen - before, count[:, None] + seen) - 1
    position = index.remainder(period)
    opens = reset | (valid & (position == 0) & (index > 0))
    number = opens.long().cumsum(1) - opens[:, :1].long()
    # the first mini-batch may have had tokens in an earlier call
    first = torch.where(reset[:, 0], 0, count) % period
    rank = position - torch.where(number == 0, first[:, None], 0)
    last = torch.stack((number.max(), torch.where(valid, rank, 0).max()))
    mini_batches, width = (int(value) + 1 for value in last.tolist())
    place = torch.where(valid, number * width + rank, mini_batches * width)

    def marked(tokens: Bool[Tensor, "B T"]) -> Bool[Tensor, "B M"]:
        hits = tokens.new_zeros(len(tokens), mini_batches, dtype=torch.long)
        return hits.scatter_add(1, number, tokens.long()) > 0

    return Grid(
        (mini_batches, width),
        place,
        position,
        marked(reset),
        marked(valid & (position == period - 1)),
        index[:, -1] + 1,
    )
