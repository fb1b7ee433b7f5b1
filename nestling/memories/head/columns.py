"""Which tokens have a column in the written part of a head: all, or those that have followed.

Letters as in step.py, S the number of columns. ``tokens`` [B, S] has the token of each column, -1
if it is free; with S = 0 there, every token of the vocabulary has its column.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable


@traceable
class Columns(NamedTuple):
    """The tokens that have a column, and the columns that were given away so far."""

    tokens: Int[Tensor, "B S"]
    used: Int[Tensor, " B"]  # the next is column used % S; the token that has it loses it

    @property
    def every(self) -> bool:
        """Whether every token has a column."""
        return not self.tokens.shape[1]

    def of(self, rows: Int[Tensor, " N"]) -> "Columns":
        """Those of some rows."""
        return Columns(self.tokens[rows], self.used[rows])

    def replaced(self, rows: Int[Tensor, " N"], own: "Columns") -> "Columns":
        """With those of some rows replaced."""
        return Columns(
            self.tokens.index_copy(0, rows, own.tokens), self.used.index_copy(0, rows, own.used)
        )

    def changed(self, after: "Columns") -> Bool[Tensor, "B 1 S"]:
        """Which columns another token has ``after``, which may have more columns."""
        if self.every:
            return self.tokens.new_zeros(len(self.tokens), 1, 1, dtype=torch.bool)
        more = after.tokens.shape[1] - self.tokens.shape[1]
        return (after.tokens != functional.pad(self.tokens, (0, more), value=-1))[:, None]

    def take(
        self, targets: Int[Tensor, "B C"], capacity: int, due: Bool[Tensor, " B"] | None = None
    ) -> tuple["Columns", Bool[Tensor, "B S"]]:
        """Give those of ``targets`` without a column one; also returns which columns are new.

        There are ``capacity`` >= C columns; those that are not here yet are not in use. Only rows
        that are ``due`` change.
        """
        none = self.tokens.shape[1]
        known = (targets[:, :, None] == self.tokens[:, None]).any(2)
        again = (targets[:, :, None] == targets[:, None]).tril(-1).any(2)
        new = ~(known | again)
        if due is not None:
            new = new & due[:, None]
        place = (self.used[:, None] + new.cumsum(1) - 1) % capacity
        place = torch.where(new, place, none)
        tokens = functional.pad(self.tokens, (0, 1)).scatter(1, place, targets)[:, :none]
        fresh = torch.zeros_like(functional.pad(self.tokens, (0, 1)), dtype=torch.bool)
        fresh = fresh.scatter(1, place, torch.ones_like(new))[:, :none]
        return Columns(tokens, self.used + new.sum(1)), fresh

    def pick(self, values: Float[Tensor, "B C V"]) -> Float[Tensor, "B C S"]:
        """The values of the tokens that have a column; 0 for a free one."""
        if self.every:
            return values
        return values.gather(2, self._index(values.shape[1])) * self._taken

    def read(
        self,
        logits: Float[Tensor, "B C V"],
        queries: Float[Tensor, "B C K"],
        weight: Float[Tensor, "B K S"],
    ) -> Float[Tensor, "B C V"]:
        """Add what queries read from D to the logits of its tokens."""
        if self.every:
            return torch.baddbmm(logits, queries, weight)
        # from free columns 0 is read
        return logits.scatter_add(2, self._index(queries.shape[1]), queries @ weight)

    def errors(self, logits: Float[Tensor, "B C V"]) -> Float[Tensor, "B C S"]:
        """-p of the tokens that have a column, where p = softmax(logits)."""
        if self.every:
            return logits.softmax(-1).neg_()
        found = logits.gather(2, self._index(logits.shape[1]))
        return (found - logits.logsumexp(-1, keepdim=True)).exp_().neg_() * self._taken

    def hit(
        self, errors: Float[Tensor, "B C S"], targets: Int[Tensor, "B C"]
    ) -> Float[Tensor, "B C S"]:
        """The errors with 1 added to that of each position's target, if it has a column."""
        if self.every:
            return errors.scatter_add(2, targets[..., None], torch.ones_like(errors[..., :1]))
        return errors + (targets[:, :, None] == self.tokens[:, None]).to(errors.dtype)

    @property
    def _taken(self) -> Bool[Tensor, "B 1 S"]:
        return (self.tokens >= 0)[:, None]

    def _index(self, length: int) -> Int[Tensor, "B C S"]:
        """The token of each column at ``length`` positions; 0 of a free one."""
        return self.tokens.clamp(min=0)[:, None].expand(-1, length, -1)


@torch.no_grad()
def write(
    weight: Float[Tensor, "B K S"],
    pairs: tuple[Float[Tensor, "B C K"], Float[Tensor, "B C S"], Int[Tensor, "B C"]],
    columns: Columns,
    capacity: int,
    due: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B K S"], Columns]:
    """D and its columns with the pairs of a period: keys, errors -p, and targets.

    ``due`` are the rows to write; None: all.
    """
    keys, errors, targets = pairs
    keys = keys if due is None else keys * due[:, None, None]
    if not columns.every:
        columns, fresh = columns.take(targets, capacity, due)
        weight, errors = (x.masked_fill(fresh[:, None], 0) for x in (weight, errors))
    return torch.baddbmm(weight, keys.mT, columns.hit(errors, targets)), columns
