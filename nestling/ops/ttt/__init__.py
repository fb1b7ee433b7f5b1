"""The scan of test-time training over whole rows, compiled for the CPU where that is possible.

It computes what nestling/memories/ttt computes mini-batch by mini-batch, with its gradients: each
core takes a row and a head through the whole sequence, with the inner model in its cache. The
backward pass computes each mini-batch again from an inner model kept on the way.
"""

import ctypes
from pathlib import Path
from typing import Any, NamedTuple

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.core import native
from nestling.ops.self_titans.cuts import Cuts

TOKENS = 16  # of a segment at most, in the kernel
SUFFIX = {torch.float32: "float", torch.float64: "double"}
# segments between two inner models kept for the backward pass, which computes those between again
GROUP = 8
INTEGERS = ("batch", "heads", "width", "hidden", "size", "length", "period", "groups", "threads")
CUTS = ("rows", "begin", "count", "flags")
TENSORS = ("qk", "v", "eta", "c", "scale", "shift", "initial", "anchor", "total")
POINTERS = (*CUTS, "seen", "qk", "v", "eta", "c", "cos", "sin", "scale", "shift", "initial")
POINTERS += ("anchor", "total", "anchor_out", "total_out", "y", "kept")
POINTERS += ("dy", "d_anchor_out", "d_total_out", "dqk", "dv", "d_eta")
POINTERS += ("dc", "d_scale", "d_shift", "d_initial", "d_anchor", "d_total")


class Setting(NamedTuple):
    """What is not differentiated."""

    cuts: Cuts  # by nestling/ops/self_titans/cuts.py:cut, with a mini-batch for a period
    seen: Int[Tensor, " B"]  # tokens of each row's document before the call
    cos: Float[Tensor, "N K2"]  # of the angles that turn q and k, by place in the mini-batch
    sin: Float[Tensor, "N K2"]
    hidden: int  # width of the hidden layer; 0 for a linear model
    epsilon: float


class _Problem(ctypes.Structure):
    """As in problem.h."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        ("epsilon", ctypes.c_double),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def kernel() -> ctypes.CDLL | None:
    """The compiled kernel; None where there is none."""
    found = native.library(Path(__file__).parent, "kernel.cpp")
    if found is not None:
        found.ttt_problem_bytes.restype = ctypes.c_int64
        assert found.ttt_problem_bytes() == ctypes.sizeof(_Problem)
        assert found.ttt_tokens() == TOKENS
    return found


def available(x: Tensor) -> bool:
    """Whether ``scan`` can compute in x's type and place, now."""
    return native.usable(x) and kernel() is not None


def _call(direction: str, setting: Setting, tensors: dict[str, Tensor | None]) -> None:
    """Fill in a _Problem and run it; what is None stays a null pointer."""
    v, anchor = tensors["v"], tensors["anchor"]
    assert v is not None and anchor is not None
    batch, length, heads, width = v.shape
    problem = _Problem(
        batch=batch,
        heads=heads,
        width=width,
        hidden=setting.hidden,
        size=anchor.shape[-1],
        length=length,
        period=len(setting.cos),
        groups=setting.cuts.groups,
        threads=torch.get_num_threads(),
        epsilon=setting.epsilon,
    )
    given = {**tensors, **{name: getattr(setting.cuts, name) for name in CUTS}}
    given |= {"seen": setting.seen, "cos": setting.cos, "sin": setting.sin}
    for name, tensor in given.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(problem, name, tensor.data_ptr())
    found = kernel()
    assert found is not None
    getattr(found, f"ttt_{direction}_{SUFFIX[v.dtype]}")(ctypes.byref(problem))


class _Scan(torch.autograd.Function):
    """All mini-batches of all rows; the tensors are TENSORS."""

    @staticmethod
    def forward(ctx: Any, setting: Setting, *inputs: Tensor):
        given: dict[str, Tensor | None] = dict(zip(TENSORS, inputs, strict=True))
        v, anchor, total = inputs[1], inputs[7], inputs[8]
        y = torch.zeros_like(v)
        after = torch.empty_like(anchor), torch.empty_like(total)
        kept = None
        if any(ctx.needs_input_grad):
            batch, heads, size = anchor.shape
            kept = anchor.new_empty(batch, heads, setting.cuts.groups, size)
            ctx.save_for_backward(*inputs, kept)
        made = {"y": y, "anchor_out": after[0], "total_out": after[1], "kept": kept}
        _call("forward", setting, {**given, **made})
        ctx.setting = setting
        ctx.set_materialize_grads(False)
        return y, *after

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, dy: Tensor | None, *d_after: Tensor | None):
        *inputs, kept = ctx.saved_tensors
        qk, v, eta, c, scale, _, _, anchor, total = inputs
        dy = torch.zeros_like(v) if dy is None else dy.contiguous()
        given: dict[str, Tensor | None] = dict(zip(TENSORS, inputs, strict=True))
        given |= {"kept": kept, "dy": dy}
        for name, grad in zip(("d_anchor_out", "d_total_out"), d_after, strict=True):
            given[name] = None if grad is None else grad.contiguous()
        made = {"dqk": torch.zeros_like(qk), "dv": torch.zeros_like(v)}
        made |= {"d_eta": torch.zeros_like(eta)}
        shape = anchor.shape[:2]
        # of every row and head by itself, summed below
        sums = {"dc": c.new_zeros(*shape, len(c)), "d_scale": scale.new_zeros(*shape, v.shape[-1])}
        sums |= {"d_shift": torch.zeros_like(sums["d_scale"])}
        sums |= {"d_initial": torch.zeros_like(anchor)}
        state = {"d_anchor": torch.empty_like(anchor), "d_total": torch.empty_like(total)}
        _call("backward", ctx.setting, {**given, **made, **sums, **state})
        parameters = sums.pop("dc").sum((0, 1)), *(x.sum(0) for x in sums.values())
        return None, *made.values(), *parameters, *state.values()


def scan(
    qk: Float[Tensor, "B T 2 H K"],
    v: Float[Tensor, "B T H K"],
    eta: Float[Tensor, "B T H"],
    c: Float[Tensor, " N"],
    norm: tuple[Float[Tensor, "H K"], Float[Tensor, "H K"]],
    initial: Float[Tensor, "H P"],
    state: tuple[Float[Tensor, "B H P"], Float[Tensor, "B H P"]],
    *,
    setting: Setting,
) -> tuple[Float[Tensor, "B T H K"], Float[Tensor, "B H P"], Float[Tensor, "B H P"]]:
    """Train on every token and read: outputs, and the state after the last token.

    ``qk`` holds queries and keys before they are turned, ``norm`` scale and shift of the inner
    layer norm, ``c`` the factor of the summed gradients by place in the mini-batch; ``initial`` and
    ``state`` (the model that opened the mini-batch, its gradients so far) are inner models in one
    piece, weight and bias of the first layer, then of the second. Where a document starts, the
    model is ``initial``; masked positions read zero.

    Source: arXiv 2407.04620, sections 2.3-2.7 as in nestling/memories/ttt/base.py. Deviates:
    nothing. Cost: time O(P + K N) a token and head, four times forward in the backward pass; memory
    beside inputs and outputs: one inner model for each group of mini-batches.
    """
    given = (qk, v, eta, c, *norm, initial, *state)
    return _Scan.apply(setting, *(x.contiguous() for x in given))
