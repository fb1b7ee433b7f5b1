"""The recurrence with decay, eraser and momentum, in chunks of C tokens at once, exactly.

Letters as in step.py; inside a chunk t, s = 1..C count tokens, 0 is the state that opens it.
A(t,s) and Theta(t,s) are products of alpha and mu over s < i <= t; a = A(t,0), K = A diag(gamma)
Theta with gamma the mask, c = K(t,0); X^- is X one token earlier. E row t is W_{t-1} p_t.

    (I + (A^- * P K^T) diag(beta)) E = a^- (P W_0^T) + c^- (P S_0^T) + (K^- * P K^T) w
    Y = a (Q W_0^T) + c (Q S_0^T) + (K * Q K^T) w - (A * Q K^T) (beta E)
    W_C = a_C W_0 + c_C S_0 + (K_C w - A_C beta E)^T K,   S_C = theta_C S_0 + (Theta_C w)^T K

A reset at token i cuts every product that spans i, and the weight it puts in, ``initial``, comes
in with a coefficient b of its own.
"""

from typing import NamedTuple

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.ops.momentum_gated_delta_rule.step import DeltaState


class Span(NamedTuple):
    """The coefficients of one moment (after, or just before, each token) of a chunk."""

    start: Float[Tensor, "*N C"]  # of the weight that opened the chunk
    momentum: Float[Tensor, "*N C"] | None  # of the momentum that opened it; None without mu
    writes: Float[Tensor, "*N C C"]  # of each write
    erased: Float[Tensor, "*N C C"]  # of each erased read
    initial: Float[Tensor, "*N C"] | None  # of the initial weight; None without resets


class Coefficients(NamedTuple):
    """All gate products of a chunk."""

    after: Span
    before: Span
    momentum_start: Float[Tensor, " *N"] | None  # of the opening momentum in the closing; None is 1
    momentum_writes: Float[Tensor, "*N C"] | None  # of each write in it; None without mu


class _SegmentProducts(torch.autograd.Function):
    """Cumulative products of masked copies; the gradient is made of products too.

    torch.cumprod divides in its backward, which is wrong next to zeros and subnormal numbers.
    """

    @staticmethod
    def forward(ctx, gate: Tensor) -> Tensor:
        index = torch.arange(gate.shape[-1] + 1, device=gate.device)
        inside = index[1:, None] > index[None, :]
        factors = torch.where(inside, gate[..., :, None], gate.new_ones(()))
        products = factors.cumprod(dim=-2) * (index[1:, None] >= index[None, :])
        ctx.save_for_backward(products)
        return products

    @staticmethod
    def backward(ctx, grad: Tensor) -> Tensor:
        # d product(t, s) / d gate(i) = product(t, i) product(i - 1, s) for s < i <= t
        (products,) = ctx.saved_tensors
        first = torch.zeros_like(products[..., :1, :])
        first[..., 0] = 1
        earlier = torch.cat([first, products[..., :-1, :]], dim=-2)
        return ((products[..., 1:].mT @ grad) * earlier).sum(-1)


def segment_products(gate: Float[Tensor, "*N C"]) -> Float[Tensor, "*N C C1"]:
    """Products of ``gate`` over s < i <= t, for t = 1..C (rows) and s = 0..C (columns), else 0.

    Exact zeros and ones give exact values and gradients, which differences of logarithms would
    not.
    """
    return _SegmentProducts.apply(gate)


def coefficients(
    alpha: Float[Tensor, "*N C"],
    mu: Float[Tensor, "*N C"] | None,
    reset: Bool[Tensor, "*N C"] | None = None,
    mask: Bool[Tensor, "*N C"] | None = None,
) -> Coefficients:
    """Gate products of a chunk. Where ``mask`` is False, alpha and mu count as one."""
    if mask is not None:
        alpha = torch.where(mask, alpha, alpha.new_ones(()))
        mu = None if mu is None else torch.where(mask, mu, mu.new_ones(()))
    keep = None if reset is None else (~reset).to(alpha.dtype)
    decay = segment_products(alpha if keep is None else alpha * keep)
    retained = decay[..., 1:]
    writes, opened, theta = retained, None, None
    if mu is not None:
        theta = segment_products(mu if keep is None else mu * keep)
        gated = retained if mask is None else retained * mask.to(alpha.dtype)[..., None, :]
        products = gated @ theta
        opened, writes = products[..., 0], products[..., 1:]
    elif mask is not None:
        writes = retained * mask.to(alpha.dtype)[..., None, :]
    initial = None
    if keep is not None:
        initial = (retained * (alpha * (1 - keep))[..., None, :]).sum(-1)
    after = Span(decay[..., 0], opened, writes, retained, initial)
    survives = None if keep is None else keep.prod(-1)
    return Coefficients(
        after,
        _before(after, keep),
        survives if theta is None else theta[..., -1, 0],
        None if theta is None else theta[..., -1, 1:],
    )


def _before(after: Span, keep: Float[Tensor, "*N C"] | None) -> Span:
    """The coefficients one token earlier, a token's own reset already done."""
    start = torch.cat([torch.ones_like(after.start[..., :1]), after.start[..., :-1]], -1)
    momentum = None if after.momentum is None else _shift(after.momentum, -1)
    writes, erased = _shift(after.writes, -2), _shift(after.erased, -2)
    if keep is None or after.initial is None:
        return Span(start, momentum, writes, erased, None)
    return Span(
        start * keep,
        None if momentum is None else momentum * keep,
        writes * keep[..., None],
        erased * keep[..., None],
        _shift(after.initial, -1) * keep + (1 - keep),
    )


def _shift(x: Tensor, dim: int) -> Tensor:
    first = torch.zeros_like(x.narrow(dim, 0, 1))
    return torch.cat([first, x.narrow(dim, 0, x.shape[dim] - 1)], dim)


def erased_inverse(
    before: Span, gram: Float[Tensor, "*N C C"], beta: Float[Tensor, "*N C"]
) -> Float[Tensor, "*N C C"]:
    """Inverse of I + (A^- * P K^T) diag(beta), unit lower triangular."""
    count = gram.shape[-1]
    eye = torch.eye(count, dtype=gram.dtype, device=gram.device)
    system = before.erased * gram * beta[..., None, :]
    return torch.linalg.solve_triangular(
        system + eye, eye.expand_as(system), upper=False, unitriangular=True
    )


def chunk(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    w: Float[Tensor, "B T H V"],
    *,
    alpha: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"],
    mu: Float[Tensor, "B T H"] | None,
    erase_key: Float[Tensor, "B T H K"] | None,
    state: DeltaState,
    initial: Float[Tensor, "*B H V K"] | None,
    read: str,
    reset: Bool[Tensor, "B T"] | None,
    mask: Bool[Tensor, "B T"] | None,
    chunk_size: int,
) -> tuple[Float[Tensor, "B T H V"], DeltaState]:
    """The whole sequence, ``chunk_size`` tokens at a time; the size never changes the result.

    Everything that does not depend on the state is computed for all chunks at once; the loop over
    chunks holds four matrix products.

    Source: SPEC of the kernel in docs/equations.md (exact form of arXiv 2512.24695, Eq 90-93 with
    momentum). Deviates: nothing. Cost: time O(T (C (K + V) + K V)), memory O(T C + T K V / C).
    """
    length, heads = q.shape[1:3]
    full = -(-length // chunk_size) * chunk_size
    if full != length:
        filled = torch.arange(full, device=q.device) < length
        mask = filled.expand(len(q), full) if mask is None else _pad(mask, full) & filled
    p = k if erase_key is None else erase_key

    def split(x: Tensor) -> Tensor:  # [B, T, H, *] -> [B, H, N, C, *]
        x = _pad(x, full).unflatten(1, (-1, chunk_size))
        return x.movedim(3, 1)

    def split_flag(x: Tensor | None) -> Tensor | None:
        if x is None:
            return None
        x = _pad(x, full).unflatten(1, (-1, chunk_size))[:, None]
        return x.expand(-1, heads, -1, -1)

    q, k, p, w, alpha, beta = (split(x) for x in (q, k, p, w, alpha, beta))
    mu = None if mu is None else split(mu)
    valid = split_flag(mask)
    gates = coefficients(alpha, mu, split_flag(reset), valid)
    if valid is not None:
        beta = torch.where(valid, beta, beta.new_zeros(()))
        w = torch.where(valid[..., None], w, w.new_zeros(()))
    y, state = _scan(q, k, p, w, beta, gates, state, initial, read)
    return y.movedim(1, 3).flatten(1, 2)[:, :length], state


def _scan(
    q: Float[Tensor, "B H N C K"],
    k: Float[Tensor, "B H N C K"],
    p: Float[Tensor, "B H N C K"],
    w: Float[Tensor, "B H N C V"],
    beta: Float[Tensor, "B H N C"],
    gates: Coefficients,
    state: DeltaState,
    initial: Float[Tensor, "*B H V K"] | None,
    read: str,
) -> tuple[Float[Tensor, "B H N C V"], DeltaState]:
    after, before = gates.after, gates.before
    seen = after if read == "post" else before
    gram, cross = p @ k.mT, q @ k.mT
    inverse = erased_inverse(before, gram, beta)
    # E = e_start W_0^T + e_momentum S_0^T + e_writes, each through the inverse
    e_start = inverse @ (before.start[..., None] * p)
    e_writes = inverse @ ((before.writes * gram) @ w)
    y_start = seen.start[..., None] * q
    y_erased = seen.erased * cross * beta[..., None, :]
    y_writes = (seen.writes * cross) @ w
    close = after.writes[..., -1, :, None] * w
    close_erased = after.erased[..., -1, :] * beta
    if after.initial is not None and initial is not None:
        base = initial.unsqueeze(-3)
        e_writes = e_writes + inverse @ (before.initial[..., None] * (p @ base.mT))
        y_writes = y_writes + seen.initial[..., None] * (q @ base.mT)
    if after.momentum is not None:
        e_momentum = inverse @ (before.momentum[..., None] * p)
        y_momentum = seen.momentum[..., None] * q
        close_momentum = gates.momentum_writes[..., None] * w
    weight, momentum = state
    outputs = []
    for n in range(q.shape[2]):
        e = e_start[:, :, n] @ weight.mT + e_writes[:, :, n]
        y = y_start[:, :, n] @ weight.mT + y_writes[:, :, n]
        if after.momentum is not None:
            e = e + e_momentum[:, :, n] @ momentum.mT
            y = y + y_momentum[:, :, n] @ momentum.mT
        outputs.append(y - y_erased[:, :, n] @ e)
        delta = close[:, :, n] - close_erased[:, :, n, :, None] * e
        new = after.start[:, :, n, -1, None, None] * weight + delta.mT @ k[:, :, n]
        if after.initial is not None and initial is not None:
            new = new + after.initial[:, :, n, -1, None, None] * initial
        if after.momentum is not None:
            new = new + after.momentum[:, :, n, -1, None, None] * momentum
        if gates.momentum_start is not None:
            momentum = gates.momentum_start[:, :, n, None, None] * momentum
        if gates.momentum_writes is not None:
            momentum = momentum + close_momentum[:, :, n].mT @ k[:, :, n]
        weight = new
    return torch.stack(outputs, dim=2), DeltaState(weight, momentum)


def _pad(x: Tensor, length: int) -> Tensor:
    """Fill dimension 1 with zeros up to ``length``."""
    missing = length - x.shape[1]
    if not missing:
        return x
    return torch.cat([x, x.new_zeros(x.shape[0], missing, *x.shape[2:])], dim=1)
