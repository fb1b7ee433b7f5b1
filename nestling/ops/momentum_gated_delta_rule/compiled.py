"""The recurrence without momentum, compiled for the CPU (kernel.cpp)."""

from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from nestling.core.bridge import Bridge
from nestling.core.error import UserError
from nestling.core.gradient import again
from nestling.ops.momentum_gated_delta_rule.chunk import chunk
from nestling.ops.momentum_gated_delta_rule.step import DeltaState

CHUNK = 32  # tokens, in the kernel
# inputs of both passes
INPUTS = {
    "q": "batch length key_heads keys",
    "k": "batch length key_heads keys",
    "w": "batch length heads values",
    "alpha": "batch length heads",
    "beta": "?batch length heads",
    "weight": "batch heads values keys",
}
STATES = "batch heads chunks values keys"  # the opening states of the chunks
KERNEL = Bridge(
    Path(__file__).parent / "kernel.cpp",
    "delta_rule",
    version=1,
    tokens=CHUNK,
    integers="batch length heads key_heads keys values chunks threads",
    inputs=INPUTS,
    works={
        "forward": {
            "y": "batch length heads values",
            "weight_out": "batch heads values keys",
            "kept": f"?{STATES}",
        },
        "backward": {
            "kept": STATES,
            "dy": "batch length heads values",
            "d_weight_out": "?batch heads values keys",
            "dq": "batch length heads keys",
            "dk": "batch length heads keys",
            "dw": "batch length heads values",
            "d_alpha": "batch length heads",
            "d_beta": "?batch length heads",
            "d_weight": "batch heads values keys",
        },
    },
)
available = KERNEL.available


def _chunks(w: Tensor) -> int:
    return -(-w.shape[1] // CHUNK)


def _by_chunks(
    q: Tensor, k: Tensor, w: Tensor, alpha: Tensor, beta: Tensor | None, weight: Tensor
) -> tuple[Tensor, Tensor]:
    """The same computation in torch, for second-order gradients."""
    nothing = dict.fromkeys(("mu", "erase_key", "initial", "reset", "mask"))
    state, size = DeltaState(weight, torch.zeros_like(weight)), min(CHUNK, w.shape[1])
    gates = {"alpha": alpha, "beta": beta}
    y, state = chunk(q, k, w, **gates, **nothing, state=state, read_at="post", chunk_size=size)
    return y, state.weight


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None):
        given = dict(zip(INPUTS, inputs, strict=True))
        w, weight = given["w"], given["weight"]
        assert w is not None and weight is not None
        y, after, kept = torch.empty_like(w), torch.empty_like(weight), None
        if any(ctx.needs_input_grad):
            kept = weight.new_empty(*weight.shape[:2], _chunks(w), *weight.shape[2:])
            ctx.save_for_backward(*inputs, kept)
        made = {"y": y, "weight_out": after, "kept": kept}
        KERNEL.call("forward", w.dtype, {**given, **made}, chunks=_chunks(w))
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        dy, d_after = grads
        *inputs, kept = ctx.saved_tensors
        if torch.is_grad_enabled():
            return again(_by_chunks, inputs, grads)
        q, _, w, alpha, beta, weight = inputs
        batch, length, heads, _ = w.shape
        keys = (batch, length, heads, q.shape[3])
        made = {"dq": w.new_empty(keys), "dk": w.new_empty(keys), "dw": torch.empty_like(w)}
        made |= {"d_alpha": torch.empty_like(alpha), "d_weight": torch.empty_like(weight)}
        d_beta = None if beta is None else torch.empty_like(beta)
        given: dict[str, Tensor | None] = dict(zip(INPUTS, inputs, strict=True))
        given |= {"dy": torch.zeros_like(w) if dy is None else dy.contiguous(), "kept": kept}
        given["d_weight_out"] = None if d_after is None else d_after.contiguous()
        every = {**given, **made, "d_beta": d_beta}
        KERNEL.call("backward", w.dtype, every, chunks=_chunks(w))
        dq, dk = (made[name].sum_to_size(q.shape) for name in ("dq", "dk"))
        return dq, dk, made["dw"], made["d_alpha"], d_beta, made["d_weight"]


def scan(
    q: Float[Tensor, "B T #H K"],
    k: Float[Tensor, "B T #H K"],
    w: Float[Tensor, "B T H V"],
    alpha: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"] | None,
    weight: Float[Tensor, "B H V K"],
    reset: Tensor | None,
    mask: Tensor | None,
) -> tuple[Float[Tensor, "B T H V"], Float[Tensor, "B H V K"]]:
    """The reads after each write, and the last weight; a reset sets the weight to zero.

    Raises UserError if q and k have neither one head nor as many as w.
    """
    if mask is not None:
        valid = mask[..., None]
        alpha = torch.where(valid, alpha, 1.0)
        w = torch.where(valid[..., None], w, 0.0)
        beta = None if beta is None else torch.where(valid, beta, 0.0)
    if reset is not None:
        # a weight that is reset to zero needs no eraser
        fresh = reset[..., None]
        alpha = torch.where(fresh, 0.0, alpha)
        beta = None if beta is None else torch.where(fresh, 0.0, beta)
    if q.shape[2] != k.shape[2]:
        q, k = (x.expand(-1, -1, w.shape[2], -1) for x in (q, k))
    if q.shape[2] not in (1, w.shape[2]):
        raise UserError(
            f"q and k have {q.shape[2]} heads, w has {w.shape[2]}; give 1 or as many as w"
        )
    tensors = (q, k, w, alpha, beta, weight)
    return _Scan.apply(*(None if x is None else x.contiguous() for x in tensors))
