"""Kernels of the backward pass: through the reads, from chunk to chunk, then within each chunk.

Letters as in chunk.py; X' is the gradient of X; G and H are the gradients of the weight and
momentum at the end of a chunk. With R = beta E, e the gradient of R and B the right side of the
system:

    e = -(A * Q K^T)^T Y' - A_C (K G^T)
    G_0 = a_C G + (a Q)^T Y' + from_weight^T (beta e);  H_0 likewise, c for a, with theta_C H more
    B' = (I + N)^-T (beta e),  N' = -B' E^T

and from these the gradient of every token. A gate's gradient is a product with products:
d A(t, s) / d alpha_i = A(t, i) A(i-1, s), so alpha_i' = sum_s (A^T A')(i, s) A(i-1, s).
Work matrices and ``coef`` as in triton_forward.py.
"""

from typing import no_type_check

import triton
import triton.language as tl

from nestling.ops.momentum_gated_delta_rule.triton_forward import spans
from nestling.ops.momentum_gated_delta_rule.triton_gates import (
    dot,
    earlier_products,
    heads_of,
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
)


@triton.jit
@no_type_check
def load_beta(beta_ptr, b, h, n, T, H: tl.constexpr, C: tl.constexpr):
    """Erase strengths of a chunk, zero past the end."""
    t = n * C + tl.arange(0, C)
    return tl.load(beta_ptr + (b * T + t) * H + h, mask=t < T, other=0.0)


@tuned(
    triton.Config({}, num_warps=4, num_stages=2),
    triton.Config({}, num_warps=8, num_stages=2),
    triton.Config({}, num_warps=4, num_stages=3),
)
@triton.jit
@no_type_check
def reads_back(
    q_ptr, k_ptr, p_ptr, alpha_ptr, mu_ptr, keep_ptr, valid_ptr, coef_ptr, inverse_ptr, grad_ptr,
    from_weight_ptr, from_momentum_ptr, back_ptr, T, SIZE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, HP: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, POST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """The part of e from the reads of its own chunk; recomputes the reads of the eraser."""
    n, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    dtype = k_ptr.dtype.element_ty
    row = (head.to(tl.int64) * tl.num_programs(0) + n) * C
    at = coef_ptr + row + tl.arange(0, C)
    p = load_tokens(p_ptr, b, h, n, T, 0, HP, K, C, BK)
    inverse = load_tile(inverse_ptr, row, 0, C, C, C)
    seen = narrow(tl.load(at + SIZE)[:, None] * p, dtype)
    store_tile(from_weight_ptr, dot(inverse, seen, PRECISION), row, 0, K, C, BK)
    if MOMENTUM:
        seen = narrow(tl.load(at + 3 * SIZE)[:, None] * p, dtype)
        store_tile(from_momentum_ptr, dot(inverse, seen, PRECISION), row, 0, K, C, BK)
    after, earlier, _, _ = spans(
        alpha_ptr, mu_ptr, keep_ptr, valid_ptr, b, h, n, T, H, C, False, RESET, MASK, PRECISION
    )
    q = load_tokens(q_ptr, b, h, n, T, 0, HQ, K, C, BK)
    k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
    gone = dot(q, tl.trans(k), PRECISION) * (after if POST else earlier)
    gone = tl.trans(narrow(gone, dtype))
    for v in range(0, tl.cdiv(V, BV)):
        grad = load_tokens(grad_ptr, b, h, n, T, v * BV, H, V, C, BV)
        store_tile(back_ptr, -dot(gone, grad, PRECISION), row, v * BV, V, C, BV)


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
def carry_back(
    q_ptr, k_ptr, beta_ptr, coef_ptr, from_weight_ptr, from_momentum_ptr, back_ptr, grad_ptr,
    weight_end_ptr, momentum_end_ptr, weights_ptr, momenta_ptr, e_ptr, weight_ptr, momentum_ptr,
    T, SIZE, CHUNKS,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, K: tl.constexpr, V: tl.constexpr,
    C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, POST: tl.constexpr, PRECISION: tl.constexpr,
):  # fmt: skip
    """From the last chunk to the first: G and H of each, e, and the opening states' gradients."""
    v, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    head = head.to(tl.int64)
    dtype = k_ptr.dtype.element_ty
    place, inside = state_tile(head, v, K, V, BK, BV)
    weight = tl.load(weight_end_ptr + place, mask=inside, other=0.0)
    momentum = weight
    if MOMENTUM:
        momentum = tl.load(momentum_end_ptr + place, mask=inside, other=0.0)
    for step in range(0, CHUNKS):
        n = CHUNKS - 1 - step
        opening = head * CHUNKS + n
        row = opening * C
        at = coef_ptr + row + tl.arange(0, C)
        read = at + (0 if POST else SIZE)
        last = coef_ptr + row + C - 1
        store_opening(weights_ptr, weight, opening, v, K, V, BK, BV)
        q = load_tokens(q_ptr, b, h, n, T, 0, HQ, K, C, BK)
        grad = load_tokens(grad_ptr, b, h, n, T, v * BV, H, V, C, BV)
        change = dot(tl.trans(narrow(tl.load(read)[:, None] * q, dtype)), grad, PRECISION)
        push = change
        if MOMENTUM:
            store_opening(momenta_ptr, momentum, opening, v, K, V, BK, BV)
            push = dot(
                tl.trans(narrow(tl.load(read + 2 * SIZE)[:, None] * q, dtype)), grad, PRECISION
            )
            push += tl.load(last + 2 * SIZE) * weight
        if ERASES:
            k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
            e = load_tile(back_ptr, row, v * BV, V, C, BV).to(tl.float32)
            e -= tl.load(at + 4 * SIZE)[:, None] * dot(k, narrow(weight, dtype), PRECISION)
            store_tile(e_ptr, e, row, v * BV, V, C, BV)
            e = narrow(load_beta(beta_ptr, b, h, n, T, H, C)[:, None] * e, dtype)
            reads = load_tile(from_weight_ptr, row, 0, K, C, BK)
            change += dot(tl.trans(reads), e, PRECISION)
            if MOMENTUM:
                reads = load_tile(from_momentum_ptr, row, 0, K, C, BK)
                push += dot(tl.trans(reads), e, PRECISION)
        weight = weight * tl.load(last) + change
        if MOMENTUM:
            momentum = momentum * tl.load(last + 7 * SIZE) + push
    tl.store(weight_ptr + place, weight, mask=inside)
    if MOMENTUM:
        tl.store(momentum_ptr + place, momentum, mask=inside)


@tuned(
    triton.Config({}, num_warps=8, num_stages=1),
    triton.Config({}, num_warps=4, num_stages=1),
    triton.Config({}, num_warps=8, num_stages=2),
)
@triton.jit
@no_type_check
def token_gradients(
    q_ptr, k_ptr, w_ptr, p_ptr, alpha_ptr, beta_ptr, mu_ptr, keep_ptr, valid_ptr, coef_ptr,
    inverse_ptr, erased_ptr, weights_ptr, momenta_ptr, grad_ptr, e_ptr, grad_weights_ptr,
    grad_momenta_ptr, right_ptr, dq_ptr, dk_ptr, dw_ptr, dp_ptr, dcoef_ptr, T, SIZE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, HP: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, POST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """q', k', w', p' and the gradient of ``coef`` of one chunk; B' (``right``) for the gates.

    dcoef: 0 to 3 of a, a^-, c, c^-; 4 to 6 of the last rows of A, K, Theta; 7 of theta (its last
    entry only); 8 of beta, without the system. Without a separate erase key p' is added to k'.
    """
    n, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    dtype = k_ptr.dtype.element_ty
    opening = head.to(tl.int64) * tl.num_programs(0) + n
    row = opening * C
    c = tl.arange(0, C)
    at, to = coef_ptr + row + c, dcoef_ptr + row + c
    after, earlier, writes, writes_e = spans(
        alpha_ptr, mu_ptr, keep_ptr, valid_ptr, b, h, n, T, H, C, MOMENTUM, RESET, MASK, PRECISION
    )
    reads = after if POST else earlier
    read_writes = writes if POST else writes_e
    q = load_tokens(q_ptr, b, h, n, T, 0, HQ, K, C, BK)
    k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
    written = tl.trans(narrow(dot(q, tl.trans(k), PRECISION) * read_writes, dtype))
    read = at + (0 if POST else SIZE)
    start, last_writes = tl.load(read), tl.load(at + 5 * SIZE)
    dq = tl.zeros((C, BK), tl.float32)
    dk = tl.zeros((C, BK), tl.float32)
    dp = tl.zeros((C, BK), tl.float32)
    by_w = tl.zeros((C, C), tl.float32)  # Y' w^T
    by_r = tl.zeros((C, C), tl.float32)  # Y' R^T
    right_w = tl.zeros((C, C), tl.float32)  # B' w^T
    right_e = tl.zeros((C, C), tl.float32)  # B' E^T
    d_start = tl.zeros((C,), tl.float32)
    d_opened = tl.zeros((C,), tl.float32)
    d_start_e = tl.zeros((C,), tl.float32)
    d_opened_e = tl.zeros((C,), tl.float32)
    d_last = tl.zeros((C,), tl.float32)
    d_last_writes = tl.zeros((C,), tl.float32)
    d_last_pushed = tl.zeros((C,), tl.float32)
    d_beta = tl.zeros((C,), tl.float32)
    kept, carried, remaining = 0.0, 0.0, 0.0
    p, beta, inverse, system_writes = k, start, written, written
    start_e, opened, opened_e, pushed = start, start, start, start
    if ERASES:
        p = load_tokens(p_ptr, b, h, n, T, 0, HP, K, C, BK)
        beta = load_beta(beta_ptr, b, h, n, T, H, C)
        inverse = tl.trans(load_tile(inverse_ptr, row, 0, C, C, C))
        system_writes = tl.trans(narrow(dot(p, tl.trans(k), PRECISION) * writes_e, dtype))
        start_e = tl.load(at + SIZE)
        opened_e = tl.load(at + 3 * SIZE) if MOMENTUM else start
    if MOMENTUM:
        opened = tl.load(read + 2 * SIZE)
        pushed = tl.load(at + 6 * SIZE)
    for v in range(0, tl.cdiv(V, BV)):
        w = load_tokens(w_ptr, b, h, n, T, v * BV, H, V, C, BV)
        grad = load_tokens(grad_ptr, b, h, n, T, v * BV, H, V, C, BV)
        weight = load_opening(weights_ptr, opening, v, K, V, BK, BV)
        dweight = load_opening(grad_weights_ptr, opening, v, K, V, BK, BV)
        kept += tl.sum(tl.sum(weight.to(tl.float32) * dweight, 1), 0)
        along = dot(grad, tl.trans(weight), PRECISION)
        dq += start[:, None] * along
        d_start += tl.sum(q * along, 1)
        by_w += dot(grad, tl.trans(w), PRECISION)
        dw = dot(written, grad, PRECISION)
        closing = dot(k, dweight, PRECISION)
        dw += last_writes[:, None] * closing
        d_last_writes += tl.sum(w * closing, 1)
        delta = last_writes[:, None] * w
        momentum, dmomentum = weight, dweight
        if MOMENTUM:
            momentum = load_opening(momenta_ptr, opening, v, K, V, BK, BV)
            dmomentum = load_opening(grad_momenta_ptr, opening, v, K, V, BK, BV)
            carried += tl.sum(tl.sum(momentum.to(tl.float32) * dweight, 1), 0)
            remaining += tl.sum(tl.sum(momentum.to(tl.float32) * dmomentum, 1), 0)
            along = dot(grad, tl.trans(momentum), PRECISION)
            dq += opened[:, None] * along
            d_opened += tl.sum(q * along, 1)
            push = dot(k, dmomentum, PRECISION)
            dw += pushed[:, None] * push
            d_last_pushed += tl.sum(w * push, 1)
            dk += dot(narrow(pushed[:, None] * w, dtype), tl.trans(dmomentum), PRECISION)
        if ERASES:
            erased = load_tile(erased_ptr, row, v * BV, V, C, BV)
            e = load_tile(e_ptr, row, v * BV, V, C, BV)
            gone = beta[:, None] * erased
            by_r += dot(grad, tl.trans(narrow(gone, dtype)), PRECISION)
            d_last -= tl.sum(gone * closing, 1)
            d_beta += tl.sum(e.to(tl.float32) * erased, 1)
            delta -= tl.load(at + 4 * SIZE)[:, None] * gone
            right = narrow(dot(inverse, narrow(beta[:, None] * e, dtype), PRECISION), dtype)
            store_tile(right_ptr, right, row, v * BV, V, C, BV)
            right_w += dot(right, tl.trans(w), PRECISION)
            right_e += dot(right, tl.trans(erased), PRECISION)
            dw += dot(system_writes, right, PRECISION)
            along = dot(right, tl.trans(weight), PRECISION)
            dp += start_e[:, None] * along
            d_start_e += tl.sum(p * along, 1)
            if MOMENTUM:
                along = dot(right, tl.trans(momentum), PRECISION)
                dp += opened_e[:, None] * along
                d_opened_e += tl.sum(p * along, 1)
        dk += dot(narrow(delta, dtype), tl.trans(dweight), PRECISION)
        store_tokens(dw_ptr, dw, b, h, n, T, v * BV, H, V, C, BV)
    d_scores = by_w * read_writes
    if ERASES:
        d_scores -= by_r * reads
        d_gram = narrow(right_w * writes_e - right_e * earlier * beta[None, :], dtype)
        dp += dot(d_gram, k, PRECISION)
        dk += dot(tl.trans(d_gram), p, PRECISION)
        if dp_ptr is None:
            dk += dp
        else:
            store_tokens(dp_ptr, dp, b, h, n, T, 0, H, K, C, BK)
        tl.store(to + 8 * SIZE, d_beta)
    d_scores = narrow(d_scores, dtype)
    dq += dot(d_scores, k, PRECISION)
    dk += dot(tl.trans(d_scores), q, PRECISION)
    store_tokens(dq_ptr, dq, b, h, n, T, 0, H, K, C, BK)
    store_tokens(dk_ptr, dk, b, h, n, T, 0, H, K, C, BK)
    if not POST:
        d_start_e += d_start
        d_opened_e += d_opened
        d_start = tl.zeros((C,), tl.float32)
        d_opened = tl.zeros((C,), tl.float32)
    end = c == C - 1
    tl.store(to, d_start + tl.where(end, kept, 0.0))
    tl.store(to + SIZE, d_start_e)
    tl.store(to + 2 * SIZE, d_opened + tl.where(end, carried, 0.0))
    tl.store(to + 3 * SIZE, d_opened_e)
    tl.store(to + 4 * SIZE, d_last)
    tl.store(to + 5 * SIZE, d_last_writes)
    tl.store(to + 6 * SIZE, d_last_pushed)
    tl.store(to + 7 * SIZE, tl.where(end, remaining, 0.0))


@tuned(
    triton.Config({}, num_warps=8, num_stages=1),
    triton.Config({}, num_warps=4, num_stages=1),
    triton.Config({}, num_warps=8, num_stages=2),
)
@triton.jit
@no_type_check
def gate_gradients(
    q_ptr, k_ptr, w_ptr, p_ptr, alpha_ptr, beta_ptr, mu_ptr, keep_ptr, valid_ptr, erased_ptr,
    grad_ptr, right_ptr, dcoef_ptr, dalpha_ptr, dbeta_ptr, dmu_ptr, T, SIZE,
    H: tl.constexpr, HQ: tl.constexpr, HK: tl.constexpr, HP: tl.constexpr, K: tl.constexpr,
    V: tl.constexpr, C: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr, MOMENTUM: tl.constexpr,
    ERASES: tl.constexpr, RESET: tl.constexpr, MASK: tl.constexpr, POST: tl.constexpr,
    PRECISION: tl.constexpr,
):  # fmt: skip
    """alpha', beta' and mu' of one chunk."""
    n, head = tl.program_id(0), tl.program_id(1)
    b, h = heads_of(head, H)
    dtype = k_ptr.dtype.element_ty
    row = (head.to(tl.int64) * tl.num_programs(0) + n) * C
    c = tl.arange(0, C)
    at = dcoef_ptr + row + c
    t = n * C + c
    gate, inside = (b * T + t) * H + h, t < T
    end = (c == C - 1)[:, None]
    q = load_tokens(q_ptr, b, h, n, T, 0, HQ, K, C, BK)
    k = load_tokens(k_ptr, b, h, n, T, 0, HK, K, C, BK)
    by_w = tl.zeros((C, C), tl.float32)
    by_r = tl.zeros((C, C), tl.float32)
    right_w = tl.zeros((C, C), tl.float32)
    right_e = tl.zeros((C, C), tl.float32)
    beta = c
    if ERASES:
        beta = load_beta(beta_ptr, b, h, n, T, H, C)
    for v in range(0, tl.cdiv(V, BV)):
        w = load_tokens(w_ptr, b, h, n, T, v * BV, H, V, C, BV)
        grad = load_tokens(grad_ptr, b, h, n, T, v * BV, H, V, C, BV)
        by_w += dot(grad, tl.trans(w), PRECISION)
        if ERASES:
            erased = load_tile(erased_ptr, row, v * BV, V, C, BV)
            right = load_tile(right_ptr, row, v * BV, V, C, BV)
            by_r += dot(grad, tl.trans(narrow(beta[:, None] * erased, dtype)), PRECISION)
            right_w += dot(right, tl.trans(w), PRECISION)
            right_e += dot(right, tl.trans(erased), PRECISION)
    scores = dot(q, tl.trans(k), PRECISION)
    # gradients of K and A from the reads, then from the eraser, then from the last row
    d_writes = scores * by_w
    d_writes_e = tl.zeros((C, C), tl.float32)
    d_after = tl.zeros((C, C), tl.float32)
    d_earlier = tl.zeros((C, C), tl.float32)
    if ERASES:
        d_after -= scores * by_r
    if not POST:
        d_writes_e += d_writes
        d_earlier += d_after
        d_writes = tl.zeros((C, C), tl.float32)
        d_after = tl.zeros((C, C), tl.float32)
    alpha, before = load_gate(alpha_ptr, b, h, n, T, H, C)
    keep, valid = load_flags(keep_ptr, valid_ptr, b, n, T, RESET, MASK, C)
    shorter = earlier_products(before, C)
    earlier = keep[:, None] * shorter
    if ERASES:
        p = load_tokens(p_ptr, b, h, n, T, 0, HP, K, C, BK)
        gram = dot(p, tl.trans(k), PRECISION)
        d_writes_e += gram * right_w
        d_earlier -= gram * right_e * beta[None, :]
        d_beta = tl.load(at + 8 * SIZE) - tl.sum(right_e * gram * earlier, 0)
        tl.store(dbeta_ptr + gate, d_beta, mask=inside)
        d_after += tl.where(end, tl.load(at + 4 * SIZE)[None, :], 0.0)
    d_writes += tl.where(end, tl.load(at + 5 * SIZE)[None, :], 0.0)
    after = tl.trans(own_included(shorter, alpha, C))
    earlier = tl.trans(earlier)
    d_start, d_start_e = tl.load(at), tl.load(at + SIZE)
    if MOMENTUM:
        mu, before_mu = load_gate(mu_ptr, b, h, n, T, H, C)
        shorter_mu = earlier_products(before_mu, C)
        theta = own_included(shorter_mu, mu, C)
        opened, opened_e = tl.load(at + 2 * SIZE), tl.load(at + 3 * SIZE)
        start_mu = tl.cumprod(before_mu, 0)
        pushed = start_mu * mu * valid
        gated = tl.trans(theta * valid[:, None])
        d_after += dot(d_writes, gated, PRECISION) + opened[:, None] * pushed[None, :]
        d_earlier += dot(d_writes_e, gated, PRECISION) + opened_e[:, None] * pushed[None, :]
        d_theta = dot(after, d_writes, PRECISION) + dot(earlier, d_writes_e, PRECISION)
        d_theta = d_theta * valid[:, None]
        d_theta += tl.where(end, tl.load(at + 6 * SIZE)[None, :], 0.0)
        d_pushed = tl.sum(after * opened[None, :], 1) + tl.sum(earlier * opened_e[None, :], 1)
        d_pushed = valid * d_pushed + tl.load(at + 7 * SIZE)
        theta = tl.trans(theta)
        d_mu = tl.sum(dot(theta, d_theta, PRECISION) * shorter_mu, 1)
        d_mu += start_mu * tl.sum(theta * d_pushed[None, :], 1)
        tl.store(dmu_ptr + gate, d_mu, mask=inside)
    else:
        d_after += d_writes
        d_earlier += d_writes_e
    product = dot(after, d_after, PRECISION) + dot(earlier, d_earlier, PRECISION)
    d_alpha = tl.sum(product * shorter, 1)
    start = tl.cumprod(before, 0)
    d_alpha += start * tl.sum(after * d_start[None, :] + earlier * d_start_e[None, :], 1)
    tl.store(dalpha_ptr + gate, d_alpha, mask=inside)
