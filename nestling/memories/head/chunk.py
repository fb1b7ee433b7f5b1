"""The head as a level over many tokens: what is written at one period's end is one product.

Letters as in step.py. Between two cuts (``nestling/memories/segments.py``) no row ends a period or
begins a document, so that D stands still and all logits are one product. The errors of a segment
come from its logits, so that segments follow each other. D itself has no gradient. The backward
pass wants the D of every segment: they are kept where they are small, and otherwise made again from
the logits.
"""

from collections.abc import Iterator, Sequence
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Int
from torch import Tensor

from nestling.core.memory import Flow
from nestling.memories.head.step import HeadState
from nestling.memories.segments import segments

KEPT = 1 << 26  # numbers of all D that are kept for a backward pass, at most


class Segment(NamedTuple):
    """Tokens start to stop, in which every row's D stands still; tensors are on the CPU."""

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
        """Rows in which its first token is the successor of one that has been read."""
        return (self.count > 0) & (self.taken > 0)


def plan(count: Int[Tensor, " B"], flow: Flow, length: int, period: int) -> list[Segment]:
    """The segments of a call; masked positions stand behind the valid ones of their document."""
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


class _Walk:
    """The state while segments are read; tensors that were given are copied before a change."""

    def __init__(self, state: HeadState):
        self.weight, self.keys, self.errors, _ = state
        self.period = self.keys.shape[1]
        self._own = False  # keys and errors
        self._own_weight = False

    def begin(self, segment: Segment, ids: Int[Tensor, " B"]) -> None:
        """Forget where documents start; write the periods that ``ids``, the first tokens, end."""
        if bool(segment.begins.any()):
            rows = _index(segment.begins, ids)
            self._copy(weight=True)
            for part in (self.weight, self.keys, self.errors):
                part[rows] = 0
        follows = segment.follows
        if not bool(follows.any()):
            return
        self._copy()
        rows = _index(follows, ids)
        last = (segment.count[follows] - 1).remainder(self.period).to(ids.device)
        self.errors[rows, last, ids[rows]] += 1
        due = follows & (segment.count % self.period == 0)
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
        """Take up the pairs of a segment; that of a row's last token lacks its successor."""
        taken = segment.taken.to(ids.device)
        keys = keys.detach().to(self.keys.dtype, copy=True)
        errors = logits.to(self.errors.dtype).softmax(-1).neg_()
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

    def release(self) -> Float[Tensor, "B K V"]:
        """The present D, which is not changed any more."""
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
    """All segments of a call; the state after them, which has no gradient, goes into ``after``."""

    @staticmethod
    def forward(ctx: Any, logits, keys, strength, ids, cuts: Sequence[Segment], after, *state):
        walk, outputs = _Walk(HeadState(*state)), torch.empty_like(logits)
        scaled, weights = keys.detach() * strength, []
        few = len(cuts) * walk.weight.numel() <= KEPT and any(ctx.needs_input_grad)
        for part in cuts:
            here = slice(part.start, part.stop)
            walk.begin(part, ids[:, part.start])
            given = logits[:, here].to(walk.weight.dtype)
            outputs[:, here] = torch.baddbmm(given, scaled[:, here], walk.weight)
            if few:
                weights.append(walk.release())
            walk.keep(part, ids[:, here], keys[:, here], outputs[:, here])
        count = cuts[-1].count + cuts[-1].taken
        after += (walk.weight, walk.keys, walk.errors, count.to(ids.device))
        ctx.save_for_backward(keys, strength, *(weights or (ids, outputs, *state)))
        ctx.cuts, ctx.few = cuts, few
        return outputs

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        (grad,) = grads
        keys, strength, *rest = ctx.saved_tensors
        weights = rest if ctx.few else _again(ctx.cuts, keys, *rest)
        found = [
            grad[:, part.start : part.stop].to(keys.dtype) @ weight.mT
            for part, weight in zip(ctx.cuts, weights, strict=True)
        ]
        pulled = torch.cat(found, dim=1)
        return grad, pulled * strength, (pulled * keys).sum(), *(None,) * 7


def _again(
    cuts: Sequence[Segment], keys: Tensor, ids: Tensor, outputs: Tensor, *state: Tensor
) -> Iterator[Float[Tensor, "B K V"]]:
    """The D of every segment, from the logits that were given."""
    walk = _Walk(HeadState(*state))
    for part in cuts:
        here = slice(part.start, part.stop)
        with torch.no_grad():
            walk.begin(part, ids[:, part.start])
        # somebody may want a graph of the products with it
        yield walk.release() if torch.is_grad_enabled() else walk.weight
        if part is not cuts[-1]:
            with torch.no_grad():
                walk.keep(part, ids[:, here], keys[:, here], outputs[:, here])


def chunk(
    state: HeadState,
    *,
    keys: Float[Tensor, "B T K"],
    logits: Float[Tensor, "B T V"],
    ids: Int[Tensor, "B T"],
    strength: Float[Tensor, ""],
    flow: Flow = Flow(),
) -> tuple[Float[Tensor, "B T V"], HeadState]:
    """``step`` over at least one token; of a document the valid positions stand first.

    Cost: for each token two products of [K] and [K, V] (to read and to write), in the backward pass
    one more, or two; memory of the logits and two D, in training of all D up to ``KEPT`` numbers.
    """
    period, dtype = state.keys.shape[1], state.weight.dtype
    cuts = plan(state.count, flow, ids.shape[1], period)
    with torch.autocast(ids.device.type, enabled=False):
        # of the same dtype as what is read
        values = logits, keys.to(dtype), strength.to(dtype)
        after: list[Tensor] = []
        y = _Read.apply(*values, ids, cuts, after, *state)
    return y, HeadState(*after)
