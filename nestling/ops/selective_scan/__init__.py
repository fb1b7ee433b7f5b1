"""The selective scan of Mamba: every number of the state has its own decay."""

import torch
from jaxtyping import Bool, Float
from torch import Tensor

from nestling.core.error import UserError
from nestling.core.op import Op
from nestling.core.shapes import checked
from nestling.ops.selective_scan.chunk import chunk as _chunk
from nestling.ops.selective_scan.inputs import inputs
from nestling.ops.selective_scan.step import step

# tiling only: how many numbers of states exist at a time (on a CPU as many as fit its cache, on an
# accelerator enough work for all cores), and the fewest tokens of a chunk
NUMBERS = {"cpu": 1 << 20}
NUMBERS_ELSEWHERE = 1 << 25
SHORTEST = 16


def initial_state(
    w: Float[Tensor, "B *T D"], k: Float[Tensor, "B *T N"], **_: object
) -> Float[Tensor, "B N D"]:
    """The state before the first token: zero."""
    return w.new_zeros(w.shape[0], k.shape[-1], w.shape[-1])


@checked
def selective_scan(
    q: Float[Tensor, "B T N"],
    k: Float[Tensor, "B T N"],
    w: Float[Tensor, "B T D"],
    *,
    delta: Float[Tensor, "B T D"],
    rate: Float[Tensor, "N D"],
    state: Float[Tensor, "B N D"] | None = None,
    reset: Bool[Tensor, "B T"] | None = None,
    mask: Bool[Tensor, "B T"] | None = None,
    chunk_size: int | None = None,
) -> tuple[Float[Tensor, "B T D"], Float[Tensor, "B N D"]]:
    """h_t = exp(delta_t rate) h_{t-1} + k_t (delta_t w_t)^T, read y_t = h_t^T q_t.

    ``delta`` must be at least 0 and ``rate`` at most 0. ``reset`` marks document starts and sets
    the state to zero. Positions where ``mask`` is False change nothing and read the unchanged
    state. ``chunk_size`` (tokens) is tiling and never changes the result; None chooses one by the
    size of the state. The state is at least float32, and autocast is disabled inside; y has w's
    dtype. Differentiable in every tensor.

    Raises UserError for wrong shapes, dtypes or devices, and a ``chunk_size`` below 1.

    Source: arXiv 2312.00752, Algorithm 2. Deviates: see step.py. Cost: see chunk.py.

    >>> x, zero = torch.ones(1, 3, 1), torch.zeros(1, 1)
    >>> selective_scan(x, x, x, delta=x, rate=zero)[0].flatten().tolist()
    [1.0, 2.0, 3.0]
    """
    if chunk_size is not None and chunk_size < 1:
        raise UserError(f"chunk_size is {chunk_size}; give at least 1 token")
    dtype = torch.promote_types(w.dtype, torch.float32)
    with torch.autocast(w.device.type, enabled=False):
        read, write, rate = q.to(dtype), k.to(dtype), rate.to(dtype)
        state = initial_state(w, k) if state is None else state
        state = state.to(dtype)
        if not w.shape[1]:
            return w, state
        values, delta = w.to(dtype), delta.to(dtype)
        if mask is not None:
            # masked positions may hold anything
            values = torch.where(mask[..., None], values, 0.0)
            delta = torch.where(mask[..., None], delta, 0.0)
        keep = None if reset is None else (~reset).to(dtype)
        size = chunk_size or _chunk_size(state)
        y, state = _chunk(read, write, values, delta, rate, keep, state, size)
    return y.to(w.dtype), state


def _chunk_size(state: Float[Tensor, "B N D"]) -> int:
    numbers = NUMBERS.get(state.device.type, NUMBERS_ELSEWHERE)
    return max(SHORTEST, numbers // max(1, state.numel()))


OP = Op(name="selective_scan", init=initial_state, step=step, chunk=selective_scan, inputs=inputs)
