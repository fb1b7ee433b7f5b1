"""The recurrence as Triton kernels: the map of chunk.py, forward and backward.

Forward: ``prepare`` (all chunks at once: gate products, the triangular systems), ``carry_states``
(chunk by chunk, all heads and columns of V at once), ``read_states`` (all chunks at once). Backward
in the same three parts, from the opening states of the chunks; nothing else that grows with K V is
kept. This module needs the package triton and is imported only when used.
"""

from contextlib import nullcontext
from typing import Any

import torch
import triton
from jaxtyping import Float
from torch import Tensor

from nestling.core.gradient import once
from nestling.ops.momentum_gated_delta_rule.step import DeltaState
from nestling.ops.momentum_gated_delta_rule.triton_backward import (
    carry_back,
    gate_gradients,
    reads_back,
    token_gradients,
)
from nestling.ops.momentum_gated_delta_rule.triton_forward import (
    carry_states,
    prepare,
    read_states,
)

CHUNKS = (64, 32, 16)  # tokens; tiling only


class _Shape:
    """The sizes of a call: grids, buffers, and the constants that kernels are compiled for."""

    def __init__(self, q: Tensor, k: Tensor, w: Tensor, p: Tensor | None, chunk_size: int) -> None:
        (self.batch, self.length, self.heads, self.value), self.key = w.shape, k.shape[-1]
        fits = [size for size in CHUNKS if size <= chunk_size]
        self.chunk = fits[0] if fits else CHUNKS[-1]
        self.chunks = -(-self.length // self.chunk)
        self.rows = self.batch * self.heads
        self.size = self.rows * self.chunks * self.chunk
        self.device, self.dtype = w.device, w.dtype
        self.constants = {"H": self.heads, "K": self.key, "V": self.value, "C": self.chunk}
        self.constants["BK"] = max(16, triton.next_power_of_2(self.key))
        self.columns = min(64, max(16, triton.next_power_of_2(self.value)))
        self.constants["PRECISION"] = "tf32x3" if w.dtype == torch.float32 else "tf32"
        self.of_q, self.of_k = {"HQ": q.shape[2]}, {"HK": k.shape[2]}
        self.of_p = {"HP": k.shape[2] if p is None else p.shape[2]}

    def work(self, *shape: int, dtype: torch.dtype | None = None) -> Tensor:
        """An uninitialised buffer."""
        return torch.empty(*shape, device=self.device, dtype=dtype or self.dtype)

    def per_token(self, width: int) -> Tensor:
        """A buffer with ``width`` numbers per token (including padding) and head."""
        return self.work(self.size, width)

    def per_chunk(self) -> Tensor:
        """A buffer with one state per chunk and head."""
        return self.work(self.rows, self.chunks, self.key, self.value)

    def state(self) -> Tensor:
        """A float32 state."""
        shape = (self.batch, self.heads, self.value, self.key)
        return self.work(*shape, dtype=torch.float32)

    def on_device(self) -> Any:
        """Make the tensors' device the current one, where Triton launches kernels."""
        return torch.cuda.device(self.device) if self.device.type == "cuda" else nullcontext()

    def every_chunk(self) -> tuple[int, int]:
        """The grid of a kernel that computes all chunks at once."""
        return self.chunks, self.rows

    def every_column(self, meta: dict[str, Any]) -> tuple[int, int]:
        """The grid of a kernel that loops over the chunks."""
        return triton.cdiv(self.value, meta["BV"]), self.rows


class _Recurrence(torch.autograd.Function):
    """Y and the final states. Gates are float32 and already include masks and resets."""

    @staticmethod
    def forward(
        ctx: Any,
        q: Tensor,
        k: Tensor,
        w: Tensor,
        p: Tensor | None,
        alpha: Tensor,
        beta: Tensor | None,
        mu: Tensor | None,
        keep: Tensor | None,
        valid: Tensor | None,
        weight: Tensor,
        momentum: Tensor | None,
        post: bool,
        chunk_size: int,
    ):
        shape = _Shape(q, k, w, p, chunk_size)
        erases, moves = beta is not None, mu is not None
        flags = {"MOMENTUM": moves, "ERASES": erases, "RESET": keep is not None}
        flags["MASK"] = valid is not None
        coef = shape.work(8, shape.size, dtype=torch.float32)
        inverse = shape.per_token(shape.chunk) if erases else None
        given, erased = (shape.per_token(shape.value) if erases else None for _ in range(2))
        from_weight = shape.per_token(shape.key) if erases else None
        from_momentum = shape.per_token(shape.key) if erases and moves else None
        weights, momenta = shape.per_chunk(), shape.per_chunk() if moves else None
        weight_end, momentum_end = shape.state(), shape.state() if moves else None
        y = torch.empty_like(w)
        gates = (alpha, beta, mu, keep, valid)
        with shape.on_device():
            prepare[shape.every_chunk()](
                k, w, k if p is None else p, *gates, coef, inverse, given, from_weight,
                from_momentum, shape.length, shape.size, BV=shape.columns, **shape.of_k,
                **shape.of_p, **shape.constants, **flags,
            )  # fmt: skip
            carry_states[shape.every_column](
                k, w, beta, coef, given, from_weight, from_momentum, weight, momentum, erased,
                weights, momenta, weight_end, momentum_end, shape.length, shape.size, shape.chunks,
                **shape.of_k, **shape.constants, MOMENTUM=moves, ERASES=erases,
            )  # fmt: skip
            read_states[shape.every_chunk()](
                q, k, w, *gates, coef, erased, weights, momenta, y, shape.length, shape.size,
                BV=shape.columns, **shape.of_q, **shape.of_k, **shape.constants, **flags, POST=post,
            )  # fmt: skip
        ctx.save_for_backward(q, k, w, p, *gates, coef, inverse, erased, weights, momenta)
        ctx.shape, ctx.flags = shape, flags | {"POST": post}
        return y, weight_end, momentum_end

    @staticmethod
    @once("the Triton form of the recurrence", "use form='chunk'")
    def backward(ctx: Any, grad: Tensor, grad_weight: Tensor, grad_momentum: Tensor | None):
        shape, flags = ctx.shape, ctx.flags
        q, k, w, p, *gates, coef, inverse, erased, weights, momenta = ctx.saved_tensors
        alpha, beta, mu, keep, valid = gates
        erases, moves = flags["ERASES"], flags["MOMENTUM"]
        grad, grad_weight = grad.contiguous(), grad_weight.contiguous()
        grad_momentum = None if grad_momentum is None else grad_momentum.contiguous()
        from_weight = shape.per_token(shape.key) if erases else None
        from_momentum = shape.per_token(shape.key) if erases and moves else None
        back, e, right = (shape.per_token(shape.value) if erases else None for _ in range(3))
        grad_weights, grad_momenta = shape.per_chunk(), shape.per_chunk() if moves else None
        weight_begin, momentum_begin = shape.state(), shape.state() if moves else None
        wide = (*w.shape[:3], shape.key)
        dq, dk, dp = shape.work(*wide), shape.work(*wide), None if p is None else shape.work(*wide)
        dw, dcoef = torch.empty_like(w), shape.work(9, shape.size, dtype=torch.float32)
        dalpha = torch.empty_like(alpha)
        dbeta, dmu = (None if x is None else torch.empty_like(x) for x in (beta, mu))
        all_heads = shape.of_q | shape.of_k | shape.of_p | {"BV": shape.columns}
        erase_key = k if p is None else p
        with shape.on_device():
            if erases:
                reads_back[shape.every_chunk()](
                    q, k, erase_key, alpha, mu, keep, valid, coef, inverse, grad, from_weight,
                    from_momentum, back, shape.length, shape.size, **all_heads, **shape.constants,
                    **flags,
                )  # fmt: skip
            carry_back[shape.every_column](
                q, k, beta, coef, from_weight, from_momentum, back, grad, grad_weight,
                grad_momentum, grad_weights, grad_momenta, e, weight_begin, momentum_begin,
                shape.length, shape.size, shape.chunks, **shape.of_q, **shape.of_k,
                **shape.constants, MOMENTUM=moves, ERASES=erases, POST=flags["POST"],
            )  # fmt: skip
            token_gradients[shape.every_chunk()](
                q, k, w, erase_key, *gates, coef, inverse, erased, weights, momenta, grad, e,
                grad_weights, grad_momenta, right, dq, dk, dw, dp, dcoef, shape.length,
                shape.size, **all_heads, **shape.constants, **flags,
            )  # fmt: skip
            gate_gradients[shape.every_chunk()](
                q, k, w, erase_key, *gates, erased, grad, right, dcoef, dalpha, dbeta, dmu,
                shape.length, shape.size, **all_heads, **shape.constants, **flags,
            )  # fmt: skip
        grads = (_of_heads(dq, q), _of_heads(dk, k), dw, None if dp is None else _of_heads(dp, p))
        return *grads, dalpha, dbeta, dmu, None, None, weight_begin, momentum_begin, None, None


def _of_heads(grad: Tensor, like: Tensor) -> Tensor:
    """The gradient of a tensor with one head for all, or with all heads."""
    if grad.shape == like.shape:
        return grad
    return grad.sum(2, keepdim=True, dtype=torch.float32).to(like.dtype)


def recurrence(
    q: Float[Tensor, "B T #H K"],
    k: Float[Tensor, "B T #H K"],
    w: Float[Tensor, "B T H V"],
    *,
    alpha: Float[Tensor, "B T H"],
    beta: Float[Tensor, "B T H"] | None,
    mu: Float[Tensor, "B T H"] | None,
    erase_key: Float[Tensor, "B T #H K"] | None,
    state: DeltaState,
    read_at: str,
    reset: Tensor | None,
    mask: Tensor | None,
    chunk_size: int,
) -> tuple[Float[Tensor, "B T H V"], DeltaState]:
    """Run the recurrence over a whole sequence; the arguments are those of chunk.py:chunk.

    Products are in bfloat16 if q, k, w and ``erase_key`` all are, and in float32 otherwise; sums,
    gates and the states between calls are always float32. The chunk size is the largest of 64, 32
    and 16 that is at most ``chunk_size``.

    Source: arXiv 2512.24695, Eq 90-93, made exact and with momentum (docs/equations.md).
    Deviates: nothing. Cost: as chunk.py:chunk, in three kernels forward and four backward.
    """
    given = [x.dtype for x in (q, k, w, erase_key) if x is not None]
    dtype = torch.bfloat16 if set(given) == {torch.bfloat16} else torch.float32
    keep = valid = None
    alpha = alpha.float()
    beta, mu = (None if x is None else x.float() for x in (beta, mu))
    if mask is not None:
        one, valid = w.new_ones((), dtype=torch.float32), mask.float()
        seen = mask[..., None]
        w = torch.where(seen[..., None], w, w.new_zeros(()))
        alpha = torch.where(seen, alpha, one)
        beta = None if beta is None else torch.where(seen, beta, one.new_zeros(()))
        mu = None if mu is None else torch.where(seen, mu, one)
    weight, momentum = state
    if reset is not None:
        keep = (~reset).float()
        alpha = alpha * keep[..., None]
        mu = None if mu is None else mu * keep[..., None]
    y, weight, pushed = _Recurrence.apply(
        *(None if x is None else x.to(dtype).contiguous() for x in (q, k, w, erase_key)),
        *(None if x is None else x.contiguous() for x in (alpha, beta, mu, keep, valid)),
        weight.contiguous(),
        None if mu is None else momentum.contiguous(),
        read_at == "post",
        chunk_size,
    )
    if mu is None:
        pushed = momentum if keep is None else momentum * keep.prod(1)[:, None, None, None]
    return y, DeltaState(weight, pushed)
