"""The recurrence without momentum, compiled for the CPU (kernel.cpp)."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.core import native

HERE = Path(__file__).parent
CHUNK = 32  # tokens, in the kernel
SUFFIX = {torch.float32: "float", torch.float64: "double"}
INTEGERS = ("batch", "length", "heads", "key_heads", "keys", "values", "chunks", "threads")
POINTERS = ("q", "k", "w", "alpha", "beta", "weight", "y", "weight_out", "kept")
POINTERS += ("dy", "d_weight_out", "dq", "dk", "dw", "d_alpha", "d_beta", "d_weight")


class _Problem(ctypes.Structure):
    """As in kernel.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def available(x: Tensor) -> bool:
    """Whether ``scan`` can compute in x's type and place, now."""
    return native.usable(x) and native.library(HERE, "kernel.cpp") is not None


def _call(direction: str, tensors: dict[str, Tensor | None]) -> None:
    q, w = tensors["q"], tensors["w"]
    assert q is not None and w is not None
    batch, length, heads, values = w.shape
    problem = _Problem(
        batch=batch,
        length=length,
        heads=heads,
        key_heads=q.shape[2],
        keys=q.shape[3],
        values=values,
        chunks=-(-length // CHUNK),
        threads=torch.get_num_threads(),
    )
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(problem, name, tensor.data_ptr())
    found = native.library(HERE, "kernel.cpp")
    getattr(found, f"delta_rule_{direction}_{SUFFIX[w.dtype]}")(ctypes.byref(problem))


NAMES = ("q", "k", "w", "alpha", "beta", "weight")


class _Scan(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, *inputs: Tensor | None):
        given = dict(zip(NAMES, inputs, strict=True))
        w, weight = given["w"], given["weight"]
        assert w is not None and weight is not None
        y, after, kept = torch.empty_like(w), torch.empty_like(weight), None
        if any(ctx.needs_input_grad):
            chunks = -(-w.shape[1] // CHUNK)
            kept = weight.new_empty(*weight.shape[:2], chunks, *weight.shape[2:])
            ctx.save_for_backward(*inputs, kept)
        _call("forward", {**given, "y": y, "weight_out": after, "kept": kept})
        ctx.set_materialize_grads(False)
        return y, after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, d_after: Tensor | None):
        *inputs, kept = ctx.saved_tensors
        q, _, w, alpha, beta, weight = inputs
        batch, length, heads, _ = w.shape
        keys = (batch, length, heads, q.shape[3])
        made = {"dq": w.new_empty(keys), "dk": w.new_empty(keys), "dw": torch.empty_like(w)}
        made |= {"d_alpha": torch.empty_like(alpha), "d_weight": torch.empty_like(weight)}
        d_beta = None if beta is None else torch.empty_like(beta)
        given: dict[str, Tensor | None] = dict(zip(NAMES, inputs, strict=True))
        given |= {"dy": torch.zeros_like(w) if dy is None else dy.contiguous(), "kept": kept}
        given["d_weight_out"] = None if d_after is None else d_after.contiguous()
        _call("backward", {**given, **made, "d_beta": d_beta})
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
    """Reads after each write, and the last weight; a reset puts the weight to zero."""
    if mask is not None:
        valid = mask[..., None]
        alpha = torch.where(valid, alpha, 1.0)
        w = torch.where(valid[..., None], w, 0.0)
        beta = None if beta is None else torch.where(valid, beta, 0.0)
    if reset is not None:
        # what is put to zero needs no eraser
        fresh = reset[..., None]
        alpha = torch.where(fresh, 0.0, alpha)
        beta = None if beta is None else torch.where(fresh, 0.0, beta)
    if q.shape[2] != k.shape[2]:
        q, k = (x.expand(-1, -1, w.shape[2], -1) for x in (q, k))
    tensors = (q, k, w, alpha, beta, weight)
    return _Scan.apply(*(None if x is None else x.contiguous() for x in tensors))
