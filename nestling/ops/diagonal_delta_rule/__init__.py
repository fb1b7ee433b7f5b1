"""The delta rule with per-channel decay and a separate eraser (RWKV-7, Kimi delta attention)."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.op import Op
from nestling.core.shapes import checked
from nestling.ops.diagonal_delta_rule.chunk import chunk as _chunk
from nestling.ops.diagonal_delta_rule.inputs import inputs
from nestling.ops.diagonal_delta_rule.step import DiagonalState as DiagonalState
from nestling.ops.diagonal_delta_rule.step import step as _step

CHUNK = 16  # tokens; tiling only


def initial_state(
    w: Float[Tensor, "B *T H V"], k: Float[Tensor, "B *T H K"], **_: object
) -> DiagonalState:
    """The state before the first token: zero."""
    return DiagonalState(w.new_zeros(w.shape[0], w.shape[-2], w.shape[-1], k.shape[-1]))


@checked
def diagonal_delta_rule(
    q: Float[Tensor, "B T H K"],
    k: Float[Tensor, "B T H K"],
    w: Float[Tensor, "B T H V"],
    *,
    log_alpha: Float[Tensor, "B T H K"],
    erase_key: Float[Tensor, "B T H K"],
    eraser: Float[Tensor, "B T H K"],
    state: DiagonalState | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, "B T H V"], DiagonalState]:
    """Decay every channel, erase along ``eraser`` what ``erase_key`` reads, write along k, read.

    S_t = S_{t-1} diag(alpha_t) - (S_{t-1} p_t) b_t^T + w_t k_t^T;  y_t = S_t q_t, with
    p = ``erase_key``, b = ``eraser`` and alpha = exp(``log_alpha``).

    ``log_alpha`` must be at most 0, and its sum over a chunk at least -80, so that exp of the sum
    and of its negative fit float32; in chunks of 16 tokens that is -5 per token. ``w`` is the
    write, already scaled. ``reset`` marks document starts and sets the weight to zero. Positions
    where ``mask`` is False change nothing and read the unchanged state. ``chunk_size`` (tokens) is
    tiling and never changes the result. The state is at least float32, and autocast is disabled
    inside; y has q's dtype. Differentiable in every tensor.

    Raises UserError for wrong shapes, dtypes or devices, and a ``chunk_size`` below 1.

    Source: arXiv 2503.14456 (RWKV-7). Deviates: nothing; Kimi delta attention is p = alpha k,
    b = beta k. Cost: see chunk.py.

    >>> x = torch.ones(1, 3, 1, 1)
    >>> none = dict(log_alpha=0 * x, erase_key=x, eraser=0 * x)
    >>> diagonal_delta_rule(x, x, x, **none)[0].flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    if chunk_size is not None and chunk_size < 1:
        raise UserError(f"chunk_size is {chunk_size}; give at least 1 token")
    dtype = torch.promote_types(q.dtype, torch.float32)
    with torch.autocast(q.device.type, enabled=False):
        tokens = {"q": q, "k": k, "w": w, "log_alpha": log_alpha}
        tokens |= {"erase_key": erase_key, "eraser": eraser}
        tokens = {name: x.to(dtype) for name, x in tokens.items()}
        if state is None:
            state = initial_state(tokens["w"], tokens["k"])
        state = DiagonalState(state.weight.to(dtype))
        if not q.shape[1]:
            return q.new_zeros(w.shape), state
        if q.shape[1] == 1:
            flags = {n: x[:, 0] for n, x in (("reset", reset), ("mask", mask)) if x is not None}
            y, state = _step(state, **{n: x[:, 0] for n, x in tokens.items()}, **flags)
            return y[:, None].to(q.dtype), state
        y, state = _chunk(
            **tokens,
            state=state,
            reset=reset,
            mask=mask,
            chunk_size=min(chunk_size or CHUNK, q.shape[1]),
        )
    return y.to(q.dtype), state


OP = Op(
    name="diagonal_delta_rule",
    init=initial_state,
    step=_step,
    chunk=diagonal_delta_rule,
    inputs=inputs,
)
