"""The state of the head's level while the segments of a call are read, one after another.

Letters as in step.py. Of columns that not all tokens have, D has as many here as may be in use: one
for each token of the document, at most.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.nn import functional

from nestling.core.memory import Flow
from nestling.memories.head.columns import Columns, write
from nestling.memories.segments import segments


class Segment(NamedTuple):
    """Tokens start to stop, during which every row's D is constant; tensors are on the CPU."""

    start: int
    stop: int
    begins: Bool[Tensor, " B"]  # rows in which a document starts here
    count: Int[Tensor, " B"]  # tokens of the document before
    taken: Int[Tensor, " B"]  # valid tokens, which come first

    def whole(self, period: int) -> bool:
        """Whether it is one period in every row."""
        return bool((self.taken == period).all())

    @property
    def follows(self) -> Bool[Tensor, " B"]:
        """Rows in which its first token continues a document."""
        return (self.count > 0) & (self.taken > 0)


def plan(count: Int[Tensor, " B"], flow: Flow, length: int, period: int) -> list[Segment]:
    """The segments of a call; masked positions come after the valid ones of their document."""
    flow = Flow(*(None if x is None else x.cpu() for x in flow))
    count = count.cpu()
    found = []
    for start, stop, _ in segments(count, flow, length, period):
        begins = torch.zeros_like(count, dtype=torch.bool)
        if flow.reset is not None:
            begins = flow.reset[:, start]
            count = torch.where(begins, 0, count)
        taken = torch.full_like(count, stop - start)
        if flow.mask is not None:
            taken = flow.mask[:, start:stop].sum(1)
        found.append(Segment(start, stop, begins, count, taken))
        count = count + taken
    return found


class Write(NamedTuple):
    """Complete periods that are written to D at the start of a segment; on the CPU."""

    rows: Int[Tensor, " N"]
    places: Int[Tensor, "N C"]  # places of their tokens in the call; -1: in an earlier call


class Written(NamedTuple):
    """D during a segment."""

    weight: Float[Tensor, "B K S"]
    columns: Columns


class Walk:
    """The state while segments are read; the given tensors are copied before any change."""

    def __init__(self, state: Sequence[Tensor], cuts: Sequence[Segment], *, traced: bool = False):
        weight, self.keys, errors, self.targets, *columns = state
        self.period, self.most = self.keys.shape[1], weight.shape[2]
        there = self.most
        if not Columns(*columns).every:
            there = min(there, max(1, int(cuts[0].count.max())))  # the others are free
        self.weight, self.errors = weight[..., :there], errors[..., :there]
        self.columns = Columns(*(x[:, :there] for x in columns))
        self.writes: list[Write | None] = []  # of each segment, where ``traced``
        self._places = torch.full(self.keys.shape[:2], -1) if traced else None
        self._own = False  # keys, errors and targets
        self._own_weight = False

    def begin(self, segment: Segment, ids: Int[Tensor, " B"]) -> None:
        """Reset rows whose document starts; write periods that their first tokens ``ids`` end."""
        if bool(segment.begins.any()):
            self._clear(index_of(segment.begins, ids))
        follows = segment.follows
        self.writes.append(None)
        if not bool(follows.any()):
            return
        self._copy()
        rows = index_of(follows, ids)
        last = (segment.count[follows] - 1).remainder(self.period).to(ids.device)
        self.targets[rows, last] = ids[rows]
        due = follows & (segment.count % self.period == 0)
        if not bool(due.any()):
            return
        self._fit(int(segment.count[due].max()))
        if self._places is not None:
            self.writes[-1] = Write(due.nonzero()[:, 0], self._places[due])
        if bool(due.all()):
            pairs = self.keys, self.errors, self.targets
            self.weight, self.columns = write(self.weight, pairs, self.columns)
            self._own_weight = True
        else:
            rows = index_of(due, ids)
            self._copy(weight=True)
            pairs = self.keys[rows], self.errors[rows], self.targets[rows]
            own = self.columns.of(rows)
            self.weight[rows], own = write(self.weight[rows], pairs, own)
            self.columns = self.columns.replaced(rows, own)

    def keep(
        self,
        segment: Segment,
        ids: Int[Tensor, "B L"],
        keys: Float[Tensor, "B L K"],
        logits: Float[Tensor, "B L V"],
    ) -> None:
        """Store the pairs of a segment; the successor of a row's last token is still unknown."""
        taken = segment.taken.to(ids.device)
        keys = keys.detach().to(self.keys.dtype, copy=True)
        errors = self.columns.errors(logits.to(self.errors.dtype))
        self._trace(segment)
        place = torch.arange(ids.shape[1], device=ids.device)
        targets = ids.roll(-1, 1) * (place + 1 < taken[:, None])
        if segment.whole(self.period):
            self.keys, self.errors, self.targets, self._own = keys, errors, targets, True
            return
        self._copy()
        row, column = (place < taken[:, None]).nonzero(as_tuple=True)
        slot = segment.count.to(ids.device)[row].remainder(self.period) + column
        self.keys[row, slot] = keys[row, column]
        self.errors[row, slot] = errors[row, column]
        self.targets[row, slot] = targets[row, column]

    def release(self) -> Written:
        """The present D, which must not change any more."""
        self._own_weight = False
        return Written(self.weight, self.columns)

    def state(self) -> tuple[Tensor, ...]:
        """The state after all segments, without its count."""
        self._fit(self.most)
        return self.weight, self.keys, self.errors, self.targets, *self.columns

    def _trace(self, segment: Segment) -> None:
        if self._places is None:
            return
        place = torch.arange(segment.stop - segment.start)
        row, column = (place < segment.taken[:, None]).nonzero(as_tuple=True)
        slot = segment.count[row].remainder(self.period) + column
        places = self._places.clone()
        places[row, slot] = segment.start + column
        self._places = places

    def _fit(self, count: int) -> None:
        """Add the columns that may be in use after ``count`` tokens of a document."""
        more = min(count, self.most) - self.weight.shape[2]
        if more <= 0:
            return
        self.weight = functional.pad(self.weight, (0, more))
        self.errors = functional.pad(self.errors, (0, more))
        self.columns = self.columns.wider(more)
        self._own_weight = True

    def _clear(self, rows: Int[Tensor, " N"]) -> None:
        """Set rows to the state before a document."""
        self._copy(weight=True)
        for part in (self.weight, self.keys, self.errors, self.targets):
            part[rows] = 0
        self.columns = Columns(*(x.index_fill(0, rows, -1) for x in self.columns))

    def _copy(self, *, weight: bool = False) -> None:
        if not self._own:
            parts = self.keys, self.errors, self.targets
            self.keys, self.errors, self.targets = (x.clone() for x in parts)
            self._own = True
        if weight and not self._own_weight:
            self.weight = self.weight.clone()
            self._own_weight = True


def index_of(rows: Bool[Tensor, " B"], like: Tensor) -> Int[Tensor, " N"]:
    """The numbers of some rows, on the device of another tensor."""
    return rows.nonzero()[:, 0].to(like.device)
