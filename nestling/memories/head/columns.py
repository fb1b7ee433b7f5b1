"""Which tokens have a column in the written part of a head: all, or those that have followed.

Letters as in step.py. ``tokens`` [B, S] has the token of each of S columns, -1 if it is free; with
S = 0 there, every token of the vocabulary has its column.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from nestling.core.named import traceable


@traceable
class Columns(NamedTuple):
    """The tokens that have a column, and when each was last a target; a larger number is later."""

    tokens: Int[Tensor, "B S"]
    last: Int[Tensor, "B S"]  # -1 if the column is free

    @property
    def every(self) -> bool:
        """Whether every token has a column."""
        return not self.tokens.shape[1]

    def of(self, rows: Int[Tensor, " N"]) -> "Columns":
        """Those of some rows."""
        return Columns(self.tokens[rows], self.last[rows])

    def replaced(self, rows: Int[Tensor, " N"], own: "Columns") -> "Columns":
        """With those of some rows replaced."""
        return Columns(
            self.tokens.index_copy(0, rows, own.tokens), self.last.index_copy(0, rows, own.last)
        )

    def changed(self, after: "Columns") -> Bool[Tensor, "B 1 S"]:
        """Which columns another token has ``after``, which may have more columns."""
        before = self.wider(after.tokens.shape[1] - self.tokens.shape[1])
        return (after.tokens != before.tokens)[:, None]

    def wider(self, more: int) -> "Columns":
        """The same with ``more`` free columns at the end."""
        return Columns(*(functional.pad(x, (0, more), value=-1) for x in self))

    def take(
        self, targets: Int[Tensor, "B C"], due: Bool[Tensor, " B"] | None = None
    ) -> tuple["Columns", Bool[Tensor, "B S"]]:
        """Give each of ``targets`` a column, C <= S; also returns which columns are new.

        Those without one get the free columns, then those of the tokens that have not been a target
        for longest. Only rows that are ``due`` change.
        """
        there = targets[:, :, None] == self.tokens[:, None]
        again = (targets[:, :, None] == targets[:, None]).tril(-1).any(2)
        new = ~(there.any(2) | again)
        if due is not None:
            new, there = new & due[:, None], there & due[:, None, None]
        asked = there.any(1)
        kept = torch.where(asked, torch.iinfo(self.last.dtype).max, self.last)
        oldest = torch.argsort(kept, dim=1, stable=True)
        place = oldest.gather(1, (new.cumsum(1) - 1).clamp(min=0))
        # one column more than there are, for targets that need no new one
        place = torch.where(new, place, self.tokens.shape[1])
        spare = functional.pad(self.tokens, (0, 1), value=-1)
        tokens = spare.scatter(1, place, targets)[:, :-1]
        fresh = torch.zeros_like(spare, dtype=torch.bool).scatter(1, place, True)[:, :-1]
        tokens = torch.where(fresh, tokens, self.tokens)  # contiguous
        order = torch.arange(1, targets.shape[1] + 1, device=targets.device)
        latest = ((targets[:, :, None] == tokens[:, None]) * order[:, None]).amax(1)
        last = self.last.amax(1, keepdim=True) + latest
        last = torch.where(asked | fresh, last, self.last)
        return Columns(tokens, last), fresh

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
    due: Bool[Tensor, " B"] | None = None,
) -> tuple[Float[Tensor, "B K S"], Columns]:
    """D and its columns with the pairs of a period: keys, errors -p, and targets.

    ``due`` are the rows to write; None: all.
    """
    keys, errors, targets = pairs
    keys = keys if due is None else keys * due[:, None, None]
    if not columns.every:
        columns, fresh = columns.take(targets, due)
        weight, errors = (x.masked_fill(fresh[:, None], 0) for x in (weight, errors))
    return torch.baddbmm(weight, keys.mT, columns.hit(errors, targets)), columns
