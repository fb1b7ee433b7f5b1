"""The head as a level over many tokens: the write at the end of a period is one product.

Letters as in step.py. Between two cuts (``nestling/memories/segments.py``) no row ends a period or
begins a document, so D is constant and all logits are one product. The errors of a segment come
from its logits, so segments are computed in sequence. The state has no gradient. The backward pass
needs the D of every segment: they are kept if they are small, else recomputed from the logits.
Learned keys add one pass, from the last segment to the first, which accumulates the gradient of D.
"""

from collections.abc import Iterator, Sequence
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional

from nestling.core.memory import Flow
from nestling.memories.head.columns import Columns
from nestling.memories.head.step import HeadState
from nestling.memories.head.walk import Segment, Walk, Written, index_of, plan

KEPT = 1 << 26  # largest number of elements, over all D, that is kept for the backward pass


class _Read(torch.autograd.Function):
    """All segments of a call; the final state, without gradient, is stored in ``after``."""

    @staticmethod
    def forward(
        ctx: Any, logits, queries, keys, ids, cuts: Sequence[Segment], after, learned, *state
    ):
        walk, outputs = Walk(state, cuts, traced=learned), torch.empty_like(logits)
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
            pulled[index_of(part.begins, ids)] = 0
    return found


def _again(
    cuts: Sequence[Segment], keys: Tensor, ids: Tensor, outputs: Tensor, *state: Tensor
) -> Iterator[Written]:
    """The D of every segment, recomputed from the logits."""
    walk = Walk(state, cuts)
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
    # all in the dtype of the state
    values = logits, queries.to(dtype), keys.to(dtype)
    after: list[Tensor] = []
    y = read.apply(*values, ids, cuts, after, learned, *state[:6])
    return y, HeadState(*after, state.previous)
