"""Kernels of the forward pass: systems of all chunks, states from chunk to chunk, reads.

Letters as in chunk.py. ``coef`` holds vectors over the tokens of every chunk, ``SIZE`` apart:
0 a, 1 a^-, 2 c, 3 c^-, 4 the last row of A, 5 of K, 6 of Theta, 7 theta. Work matrices are
[B*H, chunks, C, *]; the opening states of the chunks are kept as [B*H, chunks, K, V].
"""

from typing import no_type_check

import triton
import triton.language as tl

from nestling.ops.momentum_gated_delta_rule.triton_gates import (
    dot,
    earlier_products,
    heads_of,
    last_of,
    load_flags,
    load_gate,
    load_opening,
    load_tile,
    load_tokens,
    narrow,
    own_included,
    state_tile,
    store_opening,
    store_tile,
    store_tokens,
    tuned,
    unit_inverse,
)


@triton.jit
@no_type_check
def spans(
    alpha_ptr, mu_ptr, keep_ptr, valid_ptr, b, h, n, T, H: tl.constexpr, C: tl.constexpr,
    MOMENTUM: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """A, A^-, K, K^- of one chunk."""
    alpha, before = load_gate(alpha_ptr, b, h, n, T, H, C)
    keep, valid = load_flags(keep_ptr, valid_ptr, b, n, T, RESET, MASK, C)
    earlier = earlier_products(before, C)
    after = own_included(earlier, alpha, C)
    earlier *= keep[:, None]
    if MOMENTUM:
        mu, before = load_gate(mu_ptr, b, h, n, T, H, C)
        theta = own_included(earlier_products(before, C), mu, C) * valid[:, None]
        return after, earlier, dot(after, theta, PRECISION), dot(earlier, theta, PRECISION)
    else:
        return after, earlier, after, earlier


@tuned(
    triton.Config({}, num_warps=4, num_stages=2),
    triton.Config({}, num_warps=8, num_stages=2),
    triton.Config({}, num_warps=4, num_stages=3),
)
@triton.jit
@no_type_check
def prepare(
    k_ptr, w_ptr, p_ptr, alpha_ptr, beta_ptr, mu_ptr, keep_ptr, valid_ptr,
    coef_ptr, inverse_ptr, given_ptr, from_weight_ptr, from_momentum_ptr, T, SIZE,
    H: tl.constexpr, HK: tl.constexpr, HP: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """Coefficients, and E = given + from_weight W_0^T + from_momentum S_0^T of one chunk."""
    n, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    row = (head.to(tl.int64) * tl.num_programs(0) + n) * C
    at = coef_ptr + row + tl.arange(0, C)
    alpha, before = load_gate(alpha_ptr, b, h, n, T, H, C)
    keep, valid = load_flags(keep_ptr, valid_ptr, b, n, T, RESET, MASK, C)
    earlier = earlier_products(before, C)
    after = own_included(earlier, alpha, C)
    earlier *= keep[:, None]
    start = tl.cumprod(before, 0)
    tl.store(at, start * alpha)
    tl.store(at + SIZE, start * keep)
    tl.store(at + 4 * SIZE, last_of(after, C))
    opened = start
    if MOMENTUM:
        mu, before = load_gate(mu_ptr, b, h, n, T, H, C)
        theta = own_included(earlier_products(before, C), mu, C)
        remaining = tl.cumprod(mu, 0)
        pushed = (remaining * valid)[None, :]
        opened = tl.sum(earlier * pushed, 1)
        gated = theta * valid[:, None]
        tl.store(at + 2 * SIZE, tl.sum(after * pushed, 1))
        tl.store(at + 3 * SIZE, opened)
        tl.store(at + 5 * SIZE, last_of(dot(after, gated, PRECISION), C))
        tl.store(at + 6 * SIZE, last_of(theta, C))
        tl.store(at + 7 * SIZE, remaining)
    else:
        tl.store(at + 5 * SIZE, last_of(after, C))
    if ERASES:
        dtype = k_ptr.dtype.element_ty
        k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
        p = load_tokens(p_ptr, b, h, n, T, 0, HP, K, C, BK)
        beta = tl.load(beta_ptr + (b * T + n * C + tl.arange(0, C)) * H + h,
                       mask=n * C + tl.arange(0, C) < T, other=0.0)  # fmt: skip
        gram = dot(p, tl.trans(k), PRECISION)
        inverse = unit_inverse(earlier * gram * beta[None, :], C, PRECISION)
        scores = gram * (dot(earlier, gated, PRECISION) if MOMENTUM else earlier)
        inverse = narrow(inverse, dtype)
        store_tile(inverse_ptr, inverse, row, 0, C, C, C)
        seen = narrow(((start * keep)[:, None]) * p, dtype)
        store_tile(from_weight_ptr, dot(inverse, seen, PRECISION), row, 0, K, C, BK)
        if MOMENTUM:
            seen = narrow(opened[:, None] * p, dtype)
            store_tile(from_momentum_ptr, dot(inverse, seen, PRECISION), row, 0, K, C, BK)
        given = narrow(dot(inverse, narrow(scores, dtype), PRECISION), dtype)
        for v in range(0, tl.cdiv(V, BV)):
            w = load_tokens(w_ptr, b, h, n, T, v * BV, H, V, C, BV)
            store_tile(given_ptr, dot(given, w, PRECISION), row, v * BV, V, C, BV)


@tuned(
    triton.Config({"BV": 32}, num_warps=4, num_stages=2),
    triton.Config({"BV": 32}, num_warps=4, num_stages=3),
    triton.Config({"BV": 16}, num_warps=2, num_stages=3),
    triton.Config({"BV": 16}, num_warps=4, num_stages=3),
    triton.Config({"BV": 64}, num_warps=4, num_stages=2),
    triton.Config({"BV": 64}, num_warps=8, num_stages=2),
)
@triton.jit
@no_type_check
def carry_states(
    k_ptr, w_ptr, beta_ptr, coef_ptr, given_ptr, from_weight_ptr, from_momentum_ptr,
    weight_ptr, momentum_ptr, erased_ptr, weights_ptr, momenta_ptr, weight_end_ptr,
    momentum_end_ptr, T, SIZE, CHUNKS,
    H: tl.constexpr, HK: tl.constexpr, K: tl.constexpr, V: tl.constexpr, C: tl.constexpr,
    BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr, ERASES: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """From chunk to chunk: the opening states, E, and the final states."""
    v, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    head = head.to(tl.int64)
    dtype = k_ptr.dtype.element_ty
    place, inside = state_tile(head, v, K, V, BK, BV)
    weight = tl.load(weight_ptr + place, mask=inside, other=0.0)
    momentum = weight
    if MOMENTUM:
        momentum = tl.load(momentum_ptr + place, mask=inside, other=0.0)
    for n in range(0, CHUNKS):
        opening = head * CHUNKS + n
        row = opening * C
        at = coef_ptr + row + tl.arange(0, C)
        last = coef_ptr + row + C - 1
        store_opening(weights_ptr, weight, opening, v, K, V, BK, BV)
        k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
        w = load_tokens(w_ptr, b, h, n, T, v * BV, H, V, C, BV)
        delta = tl.load(at + 5 * SIZE)[:, None] * w
        if MOMENTUM:
            store_opening(momenta_ptr, momentum, opening, v, K, V, BK, BV)
        if ERASES:
            erased = load_tile(given_ptr, row, v * BV, V, C, BV).to(tl.float32)
            reads = load_tile(from_weight_ptr, row, 0, K, C, BK)
            erased += dot(reads, narrow(weight, dtype), PRECISION)
            if MOMENTUM:
                reads = load_tile(from_momentum_ptr, row, 0, K, C, BK)
                erased += dot(reads, narrow(momentum, dtype), PRECISION)
            store_tile(erased_ptr, erased, row, v * BV, V, C, BV)
            t = n * C + tl.arange(0, C)
            beta = tl.load(beta_ptr + (b * T + t) * H + h, mask=t < T, other=0.0)
            delta -= (tl.load(at + 4 * SIZE) * beta)[:, None] * erased
        weight = weight * tl.load(last)
        keys = tl.trans(k)
        if MOMENTUM:
            weight += tl.load(last + 2 * SIZE) * momentum
            pushed = narrow(tl.load(at + 6 * SIZE)[:, None] * w, dtype)
            momentum = momentum * tl.load(last + 7 * SIZE) + dot(keys, pushed, PRECISION)
        weight += dot(keys, narrow(delta, dtype), PRECISION)
    tl.store(weight_end_ptr + place, weight, mask=inside)
    if MOMENTUM:
        tl.store(momentum_end_ptr + place, momentum, mask=inside)


@tuned(
    triton.Config({}, num_warps=4, num_stages=2),
    triton.Config({}, num_warps=8, num_stages=2),
    triton.Config({}, num_warps=4, num_stages=3),
)
@triton.jit
@no_type_check
def read_states(
    q_ptr, k_ptr, w_ptr, alpha_ptr, beta_ptr, mu_ptr, keep_ptr, valid_ptr, coef_ptr, erased_ptr,
    weights_ptr, momenta_ptr, y_ptr, T, SIZE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, POST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """Compute Y of one chunk, all columns of V."""
    n, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    dtype = k_ptr.dtype.element_ty
    opening = head.to(tl.int64) * tl.num_programs(0) + n
    row = opening * C
    at = coef_ptr + row + tl.arange(0, C) + (0 if POST else SIZE)
    after, earlier, writes, writes_e = spans(
        alpha_ptr, mu_ptr, keep_ptr, valid_ptr, b, h, n, T, H, C, MOMENTUM, RESET, MASK, PRECISION
    )
    q = load_tokens(q_ptr, b, h, n, T, 0, HQ, K, C, BK)
    k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
    scores = dot(q, tl.trans(k), PRECISION)
    written = narrow(scores * (writes if POST else writes_e), dtype)
    gone = written
    if ERASES:
        t = n * C + tl.arange(0, C)
        beta = tl.load(beta_ptr + (b * T + t) * H + h, mask=t < T, other=0.0)
        gone = narrow(scores * (after if POST else earlier) * beta[None, :], dtype)
    from_weight = narrow(tl.load(at)[:, None] * q, dtype)
    from_momentum = from_weight
    if MOMENTUM:
        from_momentum = narrow(tl.load(at + 2 * SIZE)[:, None] * q, dtype)
    for v in range(0, tl.cdiv(V, BV)):
        w = load_tokens(w_ptr, b, h, n, T, v * BV, H, V, C, BV)
        y = dot(written, w, PRECISION)
        y += dot(from_weight, load_opening(weights_ptr, opening, v, K, V, BK, BV), PRECISION)
        if MOMENTUM:
            y += dot(from_momentum, load_opening(momenta_ptr, opening, v, K, V, BK, BV), PRECISION)
        if ERASES:
            y -= dot(gone, load_tile(erased_ptr, row, v * BV, V, C, BV), PRECISION)
        store_tokens(y_ptr, y, b, h, n, T, v * BV, H, V, C, BV)
