"""Parts shared by the kernels of triton.py: tiles of tokens, gate products, a triangular inverse.

Letters as in chunk.py. A tile has C rows, one per token of the chunk. Tokens past the end of the
sequence count as masked: gates are one, writes and erasure zero. The suffix ``_e`` ("earlier")
means just before the row's own token: products over s < i < t instead of s < i <= t.
"""

import os
from typing import no_type_check

import triton
import triton.language as tl

INTERPRETED = tl.constexpr(triton.knobs.runtime.interpret)


def tuned(*configs: triton.Config):
    """Autotune over ``configs`` once per shape and dtype, and cache the choice on disk.

    In the interpreter, where timings are meaningless, and with NESTLING_TUNE=0 in the environment
    the first one is used.
    """
    still = INTERPRETED.value or os.environ.get("NESTLING_TUNE") == "0"
    chosen = list(configs[:1] if still else configs)
    key = ["K", "V", "C", "MOMENTUM", "ERASES"]
    return triton.autotune(configs=chosen, key=key, cache_results=not still)


@triton.jit
@no_type_check
def dot(x, y, PRECISION: tl.constexpr):
    """x @ y, accumulated in float32."""
    if INTERPRETED:
        # the interpreter stores bfloat16 as integers and would multiply those
        x, y = x.to(tl.float32), y.to(tl.float32)
    return tl.dot(x, y, input_precision=PRECISION)


@triton.jit
@no_type_check
def narrow(x, DTYPE: tl.constexpr):
    """x in ``DTYPE``, rounded to the nearest number."""
    if INTERPRETED and x.dtype == tl.float32 and tl.bfloat16 == DTYPE:
        # the interpreter truncates where the hardware rounds: round first, half to even
        bits = x.to(tl.int32, bitcast=True)
        x = (bits + 0x7FFF + ((bits >> 16) & 1)).to(tl.float32, bitcast=True)
    return x.to(DTYPE)


@triton.jit
@no_type_check
def heads_of(program, H: tl.constexpr):
    """Batch row and head of a program, in 64 bits: offsets may exceed 2^31."""
    return (program // H).to(tl.int64), program % H


@triton.jit
@no_type_check
def load_tokens(
    pointer, b, h, n, T, first, H: tl.constexpr, D: tl.constexpr, C: tl.constexpr, BD: tl.constexpr
):
    """Load a tile [C, BD] of a [B, T, H, D] tensor, columns from ``first``; H = 1 is shared."""
    t = n * C + tl.arange(0, C)
    d = first + tl.arange(0, BD)
    head = h if H > 1 else 0
    offset = ((b * T + t) * H + head)[:, None] * D + d[None, :]
    return tl.load(pointer + offset, mask=(t < T)[:, None] & (d < D)[None, :], other=0.0)


@triton.jit
@no_type_check
def store_tokens(
    pointer, x, b, h, n, T, first, H: tl.constexpr, D: tl.constexpr, C: tl.constexpr,
    BD: tl.constexpr,
):  # fmt: skip
    """Write a tile [C, BD] into a [B, T, H, D] tensor."""
    t = n * C + tl.arange(0, C)
    d = first + tl.arange(0, BD)
    offset = ((b * T + t) * H + h)[:, None] * D + d[None, :]
    inside = (t < T)[:, None] & (d < D)[None, :]
    tl.store(pointer + offset, narrow(x, pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def tile(row, first, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """Offsets and bounds of a tile [R, BD] of a matrix with D columns that begins at ``row``."""
    r = row + tl.arange(0, R)
    d = first + tl.arange(0, BD)
    return r[:, None] * D + d[None, :], (d < D)[None, :]


@triton.jit
@no_type_check
def load_tile(pointer, row, first, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """Load a tile [R, BD] of a work matrix, rows from ``row``."""
    offset, inside = tile(row, first, D, R, BD)
    return tl.load(pointer + offset, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_tile(pointer, x, row, first, D: tl.constexpr, R: tl.constexpr, BD: tl.constexpr):
    """Write a tile [R, BD] of a work matrix."""
    offset, inside = tile(row, first, D, R, BD)
    tl.store(pointer + offset, narrow(x, pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def state_tile(head, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr, BV: tl.constexpr):
    """Offsets and bounds of the transposed tile [BK, BV] of a [B*H, V, K] state."""
    rows, columns = tl.arange(0, BK), v * BV + tl.arange(0, BV)
    offset = head * V * K + columns[None, :] * K + rows[:, None]
    return offset, (rows < K)[:, None] & (columns < V)[None, :]


@triton.jit
@no_type_check
def load_opening(pointer, opening, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
                 BV: tl.constexpr):  # fmt: skip
    """Load a tile [BK, BV] of the state (or gradient) of one chunk, stored as [.., K, V]."""
    rows, columns = tl.arange(0, BK), v * BV + tl.arange(0, BV)
    offset = opening * K * V + rows[:, None] * V + columns[None, :]
    inside = (rows < K)[:, None] & (columns < V)[None, :]
    return tl.load(pointer + offset, mask=inside, other=0.0)


@triton.jit
@no_type_check
def store_opening(pointer, x, opening, v, K: tl.constexpr, V: tl.constexpr, BK: tl.constexpr,
                  BV: tl.constexpr):  # fmt: skip
    """Store a tile [BK, BV] of the state (or gradient) of one chunk."""
    rows, columns = tl.arange(0, BK), v * BV + tl.arange(0, BV)
    offset = opening * K * V + rows[:, None] * V + columns[None, :]
    inside = (rows < K)[:, None] & (columns < V)[None, :]
    tl.store(pointer + offset, narrow(x, pointer.dtype.element_ty), mask=inside)


@triton.jit
@no_type_check
def load_gate(pointer, b, h, n, T, H: tl.constexpr, C: tl.constexpr):
    """Load a gate [B, T, H] at the tokens of a chunk (1 past the end) and at the token before each.

    The second is 1 for the first token, because products start with the chunk.
    """
    c = tl.arange(0, C)
    t = n * C + c
    own = tl.load(pointer + (b * T + t) * H + h, mask=t < T, other=1.0)
    before = tl.load(pointer + (b * T + t - 1) * H + h, mask=(t - 1 < T) & (c > 0), other=1.0)
    return own, before


@triton.jit
@no_type_check
def load_flags(keep_ptr, valid_ptr, b, n, T, RESET: tl.constexpr, MASK: tl.constexpr,
               C: tl.constexpr):  # fmt: skip
    """Load ``keep`` (zero at a document start) and ``valid`` (zero where nothing is written)."""
    t = n * C + tl.arange(0, C)
    valid = tl.where(t < T, 1.0, 0.0)
    keep = tl.full((C,), 1.0, tl.float32)
    if RESET:
        keep = tl.load(keep_ptr + b * T + t, mask=t < T, other=1.0)
    if MASK:
        valid = tl.load(valid_ptr + b * T + t, mask=t < T, other=0.0)
    return keep, valid


@triton.jit
@no_type_check
def earlier_products(before, C: tl.constexpr):
    """Products over s < i < t (row t, column s < t), else zero, of a gate shifted by one token.

    Cumulative products of masked copies: exact zeros and ones stay exact, and nothing is divided.
    """
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    factors = tl.where(t - 1 > s, before[:, None], 1.0)
    return tl.where(t > s, tl.cumprod(factors, 0), 0.0)


@triton.jit
@no_type_check
def own_included(earlier, gate, C: tl.constexpr):
    """Products over s < i <= t, with ones on the diagonal, from those over s < i < t."""
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    return tl.where(t == s, 1.0, gate[:, None] * earlier)


@triton.jit
@no_type_check
def last_of(x, C: tl.constexpr):
    """The last row of a matrix."""
    c = tl.arange(0, C)
    return tl.sum(tl.where((c == C - 1)[:, None], x, 0.0), 0)


@triton.jit
@no_type_check
def unit_inverse(system, C: tl.constexpr, PRECISION: tl.constexpr):
    """The inverse of I + ``system``, where ``system`` is strictly lower triangular.

    The diagonal blocks of 16 are inverted together by forward substitution, row by row. The blocks
    below follow from (I + M)^-1 = (I - M)(I + M^2), as M is nilpotent over at most four blocks.
    """
    t, s = tl.arange(0, C)[:, None], tl.arange(0, C)[None, :]
    within = t // 16 == s // 16
    blocks = tl.where(within, system, 0.0)
    inverse = tl.where(t == s, 1.0, 0.0)
    for i in range(1, 16):
        here = t % 16 == i
        row = -tl.sum(tl.where(here, blocks, 0.0), 0)
        solved = tl.sum(row[:, None] * inverse, 0)
        inverse = tl.where(here & within & (s < t), solved[None, :], inverse)
    if C > 16:
        below = dot(inverse, tl.where(within, 0.0, system), PRECISION)
        if C > 32:
            square = dot(below, below, PRECISION)
            inverse += dot(square, inverse, PRECISION)
        inverse -= dot(below, inverse, PRECISION)
    return inverse
