"""The selective scan, exactly, many tokens at a time.

Letters as in step.py. A chunk of L tokens is laid out as P pieces of C = L / P positions. The
recurrence runs through the positions of all pieces in parallel, each piece starting from zero.
Then the pieces are joined one after the other: the decayed opening state of a piece is added at
each of its positions. That takes C + P passes for P C tokens. Decays are only ever multiplied,
never divided or subtracted as logarithms, so they may be arbitrarily strong, including zero.

Only the states of one chunk exist at a time. The backward pass keeps the opening state of each
chunk, recomputes the others, and runs the same scheme in reverse. Second-order gradients are
computed token by token.
"""

import math
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.gradient import again


def _decays(
    delta: Float[Tensor, "B P C D"],
    rate: Float[Tensor, "N D"],
    keep: Float[Tensor, "B P C"] | None,
) -> Float[Tensor, "B P C N D"]:
    decay = (delta[..., None, :] * rate).exp_()
    return decay if keep is None else decay.mul_(keep[..., None, None])


def _states(
    decay: Float[Tensor, "B P C N D"],
    k: Float[Tensor, "B P C N"],
    written: Float[Tensor, "B P C D"],
    start: Float[Tensor, "B N D"],
) -> Float[Tensor, "B P C N D"]:
    """The state after every token of one chunk with opening state ``start``."""
    states = k[..., None] * written[..., None, :]
    reach = torch.empty_like(decay)
    reach[:, :, 0] = decay[:, :, 0]
    for i in range(1, decay.shape[2]):
        states[:, :, i].addcmul_(decay[:, :, i], states[:, :, i - 1])
        torch.mul(decay[:, :, i], reach[:, :, i - 1], out=reach[:, :, i])
    for p in range(decay.shape[1]):
        states[:, p].addcmul_(reach[:, p], start[:, None])
        start = states[:, p, -1]
    return states


def _adjoint(
    decay: Float[Tensor, "B P C N D"], grad: Float[Tensor, "B P C N D"]
) -> Float[Tensor, "B N D"]:
    """Add to the gradient of each state the part that comes through later states, in place.

    Returns the gradient of the opening state of the chunk.
    """
    reach = torch.empty_like(decay)
    reach[:, :, -1] = 1
    for i in reversed(range(decay.shape[2] - 1)):
        grad[:, :, i].addcmul_(decay[:, :, i + 1], grad[:, :, i + 1])
        torch.mul(decay[:, :, i + 1], reach[:, :, i + 1], out=reach[:, :, i])
    for p in reversed(range(decay.shape[1])):
        into = decay[:, p, 0] * grad[:, p, 0]
        if p == 0:
            return into
        grad[:, p - 1].addcmul_(reach[:, p - 1], into[:, None])
    raise AssertionError("a chunk has at least one piece")


def _token_by_token(q, k, w, delta, rate, keep, state) -> tuple[Tensor, Tensor]:
    """The same computation in torch operations, for second-order gradients."""
    columns = [x.flatten(1, 3).unbind(1) for x in (q, k, w, delta)]
    kept = [None] * len(columns[0]) if keep is None else keep.flatten(1, 3).unbind(1)
    outputs = []
    for read, write, value, step, here in zip(*columns, kept, strict=True):
        decay = torch.exp(step[:, None, :] * rate)
        decay = decay if here is None else decay * here[:, None, None]
        state = decay * state + write[:, :, None] * (step * value)[:, None, :]
        outputs.append((read[:, None, :] @ state)[:, 0])
    return torch.stack(outputs, 1).view_as(w), state


class _Scan(torch.autograd.Function):
    """All chunks; inputs are laid out [B, chunk, piece, position, *]."""

    @staticmethod
    def forward(ctx: Any, q, k, w, delta, rate, keep, state):
        outputs, opened = torch.empty_like(w), []
        for n in range(q.shape[1]):
            opened.append(state)
            decay = _decays(delta[:, n], rate, None if keep is None else keep[:, n])
            states = _states(decay, k[:, n], delta[:, n] * w[:, n], state)
            outputs[:, n] = (q[:, n, ..., None, :] @ states)[..., 0, :]
            state = states[:, -1, -1].clone()
        ctx.save_for_backward(q, k, w, delta, rate, keep, *opened)
        return outputs, state

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        grad, grad_state = grads
        q, k, w, delta, rate, keep, *opened = ctx.saved_tensors
        if torch.is_grad_enabled():
            return again(_token_by_token, (q, k, w, delta, rate, keep, opened[0]), grads)
        found = [torch.empty_like(x) for x in (q, k, w, delta)]
        grad_rate = torch.zeros_like(rate)
        for n in reversed(range(q.shape[1])):
            here = [x[:, n] for x in (q, k, w, delta, grad)]
            kept = None if keep is None else keep[:, n]
            parts, part, grad_state = _backward(*here, rate, kept, opened[n], grad_state)
            grad_rate += part
            for whole, piece in zip(found, parts, strict=True):
                whole[:, n] = piece
        return *found, grad_rate, None, grad_state


def _backward(
    q: Float[Tensor, "B P C N"],
    k: Float[Tensor, "B P C N"],
    w: Float[Tensor, "B P C D"],
    delta: Float[Tensor, "B P C D"],
    grad: Float[Tensor, "B P C D"],
    rate: Float[Tensor, "N D"],
    keep: Float[Tensor, "B P C"] | None,
    start: Float[Tensor, "B N D"],
    grad_end: Float[Tensor, "B N D"],
) -> tuple[tuple[Tensor, ...], Float[Tensor, "N D"], Float[Tensor, "B N D"]]:
    """Gradients of one chunk: of (q, k, w, delta), of the rates, of the opening state."""
    decay = _decays(delta, rate, keep)
    written = delta * w
    states = _states(decay, k, written, start)
    grad_q = (states @ grad[..., None])[..., 0]
    through = q[..., None] * grad[..., None, :]
    through[:, -1, -1] += grad_end
    grad_start = _adjoint(decay, through)
    grad_k = (through @ written[..., None])[..., 0]
    grad_written = (k[..., None, :] @ through)[..., 0, :]
    # the gradient of delta * rate: through * decay * the state one token earlier
    decay.mul_(through)
    late, early = (x.flatten(1, 2) for x in (decay, states))
    late[:, 1:].mul_(early[:, :-1])
    late[:, 0].mul_(start)
    grad_delta = (decay * rate).sum(-2) + grad_written * w
    grad_rate = decay.mul_(delta[..., None, :]).sum((0, 1, 2))
    return (grad_q, grad_k, grad_written * delta, grad_delta), grad_rate, grad_start


def chunk(
    q: Float[Tensor, "B T N"],
    k: Float[Tensor, "B T N"],
    w: Float[Tensor, "B T D"],
    delta: Float[Tensor, "B T D"],
    rate: Float[Tensor, "N D"],
    keep: Float[Tensor, "B T"] | None,
    state: Float[Tensor, "B N D"],
    chunk_size: int,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N D"]]:
    """Run the scan ``chunk_size`` tokens at a time; the size never changes the result.

    Source: arXiv 2312.00752, section 3.3.2 (scan, with recomputation in the backward pass).
    Deviates: the scan has two levels instead of a tree. Cost: time O(T N D), memory
    O(T D + (T / L + L) N D) for chunks of L tokens.
    """
    length = q.shape[1]
    chunks = -(-length // chunk_size)
    even = -(-length // chunks)
    positions = math.isqrt(even - 1) + 1
    pieces = -(-even // positions)
    missing = chunks * pieces * positions - length

    def split(x: Tensor) -> Tensor:
        # a step of size zero changes nothing, so padding may be anywhere
        if missing:
            x = torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
        return x.unflatten(1, (chunks, pieces, positions))

    if keep is not None:
        keep = split(keep - 1) + 1
    y, state = _Scan.apply(split(q), split(k), split(w), split(delta), rate, keep, state)
    return y.flatten(1, 3)[:, :length], state
