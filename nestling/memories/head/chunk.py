"""The head as a level over many tokens: the write at the end of a period is one product.

Letters as in step.py. Between two cuts (``nestling/memories/segments.py``) no row ends a period or
begins a document, so D is constant and all logits are one product. The errors of a segment come
from its logits, so segments are computed in sequence. The state has no gradient. The backward pass
needs the D of every segment: they are kept if they are small, else recomputed from the logits.
Learned keys add one pass, from the last segment to the first, which accumulates the gradient of D.
Where tokens take columns in turn, D has as many of them here as may be in use: one for each token
of the document, at most.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nestling.core.memory import Flow
from nestling.memories.head.columns import Columns, write
from nestling.memories.head.step import HeadState
from nestling.memories.segments import segments

KEPT = 1 << 26  # largest number of elements, over all D, that is kept for the backward pass


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


class _Walk:
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
            self._clear(_index(segment.begins, ids))
        follows = segment.follows
        self.writes.append(None)
        if not bool(follows.any()):
            return
        self._copy()
        rows = _index(follows, ids)
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
            rows = _index(due, ids)
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


def _index(rows: Bool[Tensor, " B"], like: Tensor) -> Int[Tensor, " N"]:
    return rows.nonzero()[:, 0].to(like.device)


class _Read(torch.autograd.Function):
    """All segments of a call; the final state, without gradient, is stored in ``after``."""

    @staticmethod
    def forward(
        ctx: Any, logits, queries, keys, ids, cuts: Sequence[Segment], after, learned, *state
    ):
        walk, outputs = _Walk(state, cuts, traced=learned), torch.empty_like(logits)
        during: list[Written] = []
        few = _numbers(state, cuts) <= KEPT and any(ctx.needs_input_grad)
        for part in cuts:
            here = slice(part.start, part.stop)
            walk.begin(part, ids[:, part.start])
            given = logits[:, here].to(walk.weight.dtype)
            outputs[:, here] = walk.columns.read(given, queries[:, here].detach(), walk.weight)
            if few:
                during.append(walk.release())
            walk.keep(part, ids[:, here], keys[:, here], outputs[:, here])
        count = cuts[-1].count + cuts[-1].taken
        after += (*walk.state(), count.to(ids.device))
        again = () if few and not learned else (keys, ids, outputs)
        kept = [x for one in during for x in (one.weight, *one.columns)]
        ctx.save_for_backward(queries, *again, *(kept if few else state))
        ctx.cuts, ctx.few, ctx.writes = cuts, few, walk.writes
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        (grad,) = grads
        queries, *rest = ctx.saved_tensors
        found, _ = _of_queries(ctx, grad, queries, rest)
        return grad, found, *(None,) * 11


class _Learned(_Read):
    """``_Read`` with gradients for keys through what they wrote; written errors are constants."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any):
        (grad,) = grads
        queries, keys, ids, outputs, *rest = ctx.saved_tensors
        rest = rest if ctx.few else [keys, ids, outputs, *rest]
        found, columns = _of_queries(ctx, grad, queries, rest)
        wide = grad.to(queries.dtype)
        of_keys = _of_keys(ctx, wide, queries, keys, ids, outputs, columns)
        return grad, found, of_keys, *(None,) * 10


def _numbers(state: Sequence[Tensor], cuts: Sequence[Segment]) -> int:
    """Elements of the D of all segments, at most."""
    rows, keys, columns = state[0].shape
    if not Columns(*state[4:]).every:
        columns = min(columns, max(int(part.count.max()) for part in cuts))
    return len(cuts) * rows * keys * columns


def _of_queries(
    ctx: Any, grad: Float[Tensor, "B T V"], queries: Float[Tensor, "B T K"], rest: Sequence[Tensor]
) -> tuple[Float[Tensor, "B T K"], list[Columns]]:
    """The gradient of the queries, and the columns of every segment."""
    if ctx.few:
        three = [iter(rest)] * 3
        parts = (Written(x, Columns(*own)) for x, *own in zip(*three, strict=True))
    else:
        parts = _again(ctx.cuts, *rest)
    found, columns = [], []
    for part, (weight, own) in zip(ctx.cuts, parts, strict=True):
        here = grad[:, part.start : part.stop].to(queries.dtype)
        found.append(own.pick(here) @ weight.mT)
        columns.append(own)
    return torch.cat(found, dim=1), columns


def _of_keys(
    ctx: Any,
    grad: Float[Tensor, "B T V"],
    queries: Float[Tensor, "B T K"],
    keys: Float[Tensor, "B T K"],
    ids: Int[Tensor, "B T"],
    outputs: Float[Tensor, "B T V"],
    columns: Sequence[Columns],
) -> Float[Tensor, "B T K"]:
    """A key's gradient: its written error times the gradient of D after the write."""
    found = torch.zeros_like(keys)
    pulled = grad.new_zeros(len(keys), keys.shape[2], 0)  # the gradient of D
    for number in range(len(ctx.cuts) - 1, -1, -1):
        part, ended, own = ctx.cuts[number], ctx.writes[number], columns[number]
        here = slice(part.start, part.stop)
        read, asked = own.pick(grad[:, here]), queries[:, here].mT
        if pulled.shape[2]:
            pulled = torch.baddbmm(pulled[..., : read.shape[2]], asked, read)
        else:
            pulled = asked @ read
        if ended is not None:
            rows, places = ended.rows.to(ids.device), ended.places.to(ids.device)
            following = places.roll(-1, dims=1)
            following[:, -1] = part.start
            row, after = rows[:, None], own.of(rows)
            # at the first segment all places are of an earlier call, and count nothing
            before = columns[max(number - 1, 0)].of(rows)
            errors = before.errors(outputs[row, places.clamp(min=0)].to(grad.dtype))
            if not own.every:
                fresh = before.changed(after)
                errors = functional.pad(errors, (0, fresh.shape[2] - errors.shape[2]))
                errors = errors.masked_fill(fresh, 0)
            errors = after.hit(errors, ids[row, following.clamp(min=0)])
            errors *= (places >= 0)[..., None]
            wrote = errors @ pulled[rows].mT
            found.index_put_((row, places.clamp(min=0)), wrote, accumulate=True)
            if not own.every:
                pulled[rows] = pulled[rows].masked_fill(fresh, 0)
        if bool(part.begins.any()):
            pulled[_index(part.begins, ids)] = 0
    return found


def _again(
    cuts: Sequence[Segment], keys: Tensor, ids: Tensor, outputs: Tensor, *state: Tensor
) -> Iterator[Written]:
    """The D of every segment, recomputed from the logits."""
    walk = _Walk(state, cuts)
    for part in cuts:
        here = slice(part.start, part.stop)
        with torch.no_grad():
            walk.begin(part, ids[:, part.start])
        # with gradients enabled its products may become part of a graph
        yield walk.release() if torch.is_grad_enabled() else Written(walk.weight, walk.columns)
        if part is not cuts[-1]:
            with torch.no_grad():
                walk.keep(part, ids[:, here], keys[:, here], outputs[:, here])


def chunk(
    state: HeadState,
    *,
    queries: Float[Tensor, "B T K"],
    keys: Float[Tensor, "B T K"],
    logits: Float[Tensor, "B T V"],
    ids: Int[Tensor, "B T"],
    flow: Flow = Flow(),
    learned: bool = False,
) -> tuple[Float[Tensor, "B T V"], HeadState]:
    """``step`` over at least one token; in each document the valid positions come first.

    With ``learned``, keys get a first-order gradient through writes that are read in the same call;
    else none. ``previous`` of the state is unchanged.

    Cost: two products of [K] and [K, S] per token (read and write), and one or two more in the
    backward pass; memory for the logits and two D, in training for all D up to ``KEPT`` numbers.
    Learned keys: two more products in the backward pass.
    """
    period, dtype = state.keys.shape[1], state.weight.dtype
    cuts = plan(state.count, flow, ids.shape[1], period)
    read = _Learned if learned else _Read
    with torch.autocast(ids.device.type, enabled=False):
        # all in the dtype of the state
        values = logits, queries.to(dtype), keys.to(dtype)
        after: list[Tensor] = []
        y = read.apply(*values, ids, cuts, after, learned, *state[:6])
    return y, HeadState(*after, state.previous)
