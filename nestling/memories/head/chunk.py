"""The head as a level over many tokens: the write at the end of a period is one product.

Letters as in step.py. Between two cuts (``nestling/memories/segments.py``) no row ends a period or
begins a document, so D is constant and all logits are one product. The errors of a segment come
from its logits, so segments are computed in sequence. The state has no gradient. The backward pass
needs the D of every segment: they are kept if they are small, else recomputed from the logits.
Learned keys add one pass, from the last segment to the first, which accumulates the gradient of D.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.core.memory import Flow
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


class _Walk:
    """The state while segments are read; the given tensors are copied before any change."""

    def __init__(self, state: Sequence[Tensor], *, traced: bool = False):
        self.weight, self.keys, self.errors = state[:3]
        self.period = self.keys.shape[1]
        self.writes: list[Write | None] = []  # of each segment, where ``traced``
        self._places = torch.full(self.keys.shape[:2], -1) if traced else None
        self._own = False  # keys and errors
        self._own_weight = False

    def begin(self, segment: Segment, ids: Int[Tensor, " B"]) -> None:
        """Reset rows whose document starts; write periods that their first tokens ``ids`` end."""
        if bool(segment.begins.any()):
            rows = _index(segment.begins, ids)
            self._copy(weight=True)
            for part in (self.weight, self.keys, self.errors):
                part[rows] = 0
        follows = segment.follows
        self.writes.append(None)
        if not bool(follows.any()):
            return
        self._copy()
        rows = _index(follows, ids)
        last = (segment.count[follows] - 1).remainder(self.period).to(ids.device)
        self.errors[rows, last, ids[rows]] += 1
        due = follows & (segment.count % self.period == 0)
        if self._places is not None and bool(due.any()):
            self.writes[-1] = Write(due.nonzero()[:, 0], self._places[due])
        if bool(due.all()):
            self.weight = torch.baddbmm(self.weight, self.keys.mT, self.errors)
            self._own_weight = True
        elif bool(due.any()):
            rows = _index(due, ids)
            self._copy(weight=True)
            self.weight[rows] += self.keys[rows].mT @ self.errors[rows]

    def keep(
        self,
        segment: Segment,
        ids: Int[Tensor, "B S"],
        keys: Float[Tensor, "B S K"],
        logits: Float[Tensor, "B S V"],
    ) -> None:
        """Store the pairs of a segment; the successor of a row's last token is still unknown."""
        taken = segment.taken.to(ids.device)
        keys = keys.detach().to(self.keys.dtype, copy=True)
        errors = logits.to(self.errors.dtype).softmax(-1).neg_()
        self._trace(segment)
        place = torch.arange(ids.shape[1], device=ids.device)
        known = (place[1:] < taken[:, None]).to(errors.dtype)
        errors[:, :-1].scatter_add_(2, ids[:, 1:, None], known[..., None])
        if segment.whole(self.period):
            self.keys, self.errors, self._own = keys, errors, True
            return
        self._copy()
        row, column = (place < taken[:, None]).nonzero(as_tuple=True)
        slot = segment.count.to(ids.device)[row].remainder(self.period) + column
        self.keys[row, slot] = keys[row, column]
        self.errors[row, slot] = errors[row, column]

    def _trace(self, segment: Segment) -> None:
        if self._places is None:
            return
        place = torch.arange(segment.stop - segment.start)
        row, column = (place < segment.taken[:, None]).nonzero(as_tuple=True)
        slot = segment.count[row].remainder(self.period) + column
        places = self._places.clone()
        places[row, slot] = segment.start + column
        self._places = places

    def release(self) -> Float[Tensor, "B K V"]:
        """The present D, which must not change any more."""
        self._own_weight = False
        return self.weight

    def _copy(self, *, weight: bool = False) -> None:
        if not self._own:
            self.keys, self.errors = self.keys.clone(), self.errors.clone()
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
        walk, outputs = _Walk(state, traced=learned), torch.empty_like(logits)
        weights = []
        few = len(cuts) * walk.weight.numel() <= KEPT and any(ctx.needs_input_grad)
        for part in cuts:
            here = slice(part.start, part.stop)
            walk.begin(part, ids[:, part.start])
            given = logits[:, here].to(walk.weight.dtype)
            outputs[:, here] = torch.baddbmm(given, queries[:, here].detach(), walk.weight)
            if few:
                weights.append(walk.release())
            walk.keep(part, ids[:, here], keys[:, here], outputs[:, here])
        count = cuts[-1].count + cuts[-1].taken
        after += (walk.weight, walk.keys, walk.errors, count.to(ids.device))
        again = () if few and not learned else (keys, ids, outputs)
        ctx.save_for_backward(queries, *again, *(weights if few else state))
        ctx.cuts, ctx.few, ctx.writes = cuts, few, walk.writes
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        (grad,) = grads
        queries, *rest = ctx.saved_tensors
        return grad, _of_queries(ctx, grad, queries, rest), *(None,) * 9


class _Learned(_Read):
    """``_Read`` with gradients for keys through what they wrote; written errors are constants."""

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, *grads: Any):
        (grad,) = grads
        queries, keys, ids, outputs, *rest = ctx.saved_tensors
        rest = rest if ctx.few else [keys, ids, outputs, *rest]
        found = _of_queries(ctx, grad, queries, rest)
        wide = grad.to(queries.dtype)
        return grad, found, _of_keys(ctx, wide, queries, keys, ids, outputs), *(None,) * 8


def _of_queries(
    ctx: Any, grad: Float[Tensor, "B T V"], queries: Float[Tensor, "B T K"], rest: Sequence[Tensor]
) -> Float[Tensor, "B T K"]:
    weights = rest if ctx.few else _again(ctx.cuts, *rest)
    found = [
        grad[:, part.start : part.stop].to(queries.dtype) @ weight.mT
        for part, weight in zip(ctx.cuts, weights, strict=True)
    ]
    return torch.cat(found, dim=1)


def _of_keys(
    ctx: Any,
    grad: Float[Tensor, "B T V"],
    queries: Float[Tensor, "B T K"],
    keys: Float[Tensor, "B T K"],
    ids: Int[Tensor, "B T"],
    outputs: Float[Tensor, "B T V"],
) -> Float[Tensor, "B T K"]:
    """A key's gradient: its written error times the gradient of D after the write."""
    found = torch.zeros_like(keys)
    pulled = grad.new_zeros(len(keys), keys.shape[2], grad.shape[2])  # the gradient of D
    for part, write in zip(reversed(ctx.cuts), reversed(ctx.writes), strict=True):
        here = slice(part.start, part.stop)
        pulled = torch.baddbmm(pulled, queries[:, here].mT, grad[:, here])
        if write is not None:
            rows, places = write.rows[:, None].to(ids.device), write.places.to(ids.device)
            following = places.roll(-1, dims=1)
            following[:, -1] = part.start
            errors = outputs[rows, places.clamp(min=0)].to(grad.dtype).softmax(-1).neg_()
            chosen = ids[rows, following.clamp(min=0)][..., None]
            errors.scatter_add_(2, chosen, torch.ones_like(errors[..., :1]))
            errors *= (places >= 0)[..., None]
            wrote = errors @ pulled[rows[:, 0]].mT
            found.index_put_((rows, places.clamp(min=0)), wrote, accumulate=True)
        if bool(part.begins.any()):
            pulled[_index(part.begins, ids)] = 0
    return found


def _again(
    cuts: Sequence[Segment], keys: Tensor, ids: Tensor, outputs: Tensor, *state: Tensor
) -> Iterator[Float[Tensor, "B K V"]]:
    """The D of every segment, recomputed from the logits."""
    walk = _Walk(state)
    for part in cuts:
        here = slice(part.start, part.stop)
        with torch.no_grad():
            walk.begin(part, ids[:, part.start])
        # with gradients enabled its products may become part of a graph
        yield walk.release() if torch.is_grad_enabled() else walk.weight
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

    Cost: two products of [K] and [K, V] per token (read and write), and one or two more in the
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
        y = read.apply(*values, ids, cuts, after, learned, *state[:4])
    return y, HeadState(*after, state.previous)
