"""A causal depth-wise convolution along time, followed by SiLU, compiled for the CPU."""

from functools import partial
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor

from nestling.core.bridge import Bridge
from nestling.core.gradient import again
from nestling.ops.short_convolution.plain import plain as plain

TOKENS = 64  # per work item of the kernel
KERNEL = Bridge(
    Path(__file__).parent / "kernel.cpp",
    "short_convolution",
    version=1,
    tokens=TOKENS,
    integers="batch length channels width pieces activation threads",
    inputs={
        "x": "batch length channels",
        "weight": "channels width",
        "tail": "batch width-1 channels",
        "bias": "?channels",
        "starts": "?int64: batch length",
    },
    works={
        "forward": {"y": "batch length channels"},
        "backward": {
            "dy": "batch length channels",
            "dx": "batch length channels",
            "d_tail": "batch width-1 channels",
            "d_weight": "batch pieces width+1 channels",
        },
    },
)
available = KERNEL.available


def _call(work: str, activation: bool, tensors: dict[str, Tensor | None]) -> None:
    x = tensors["x"]
    assert x is not None
    pieces = -(-x.shape[1] // TOKENS)
    KERNEL.call(work, x.dtype, tensors, activation=int(activation), pieces=pieces)


class _Convolve(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, starts: Tensor | None, activation: bool, *inputs: Tensor | None):
        x, tail, weight, bias = inputs
        assert x is not None
        y = torch.empty_like(x)
        given = {"x": x, "tail": tail, "weight": weight, "bias": bias, "starts": starts, "y": y}
        _call("forward", activation, given)
        ctx.save_for_backward(*inputs)
        ctx.starts, ctx.activation = starts, activation
        return y

    @staticmethod
    def backward(ctx: Any, *grads: Any):
        (dy,) = grads
        x, tail, weight, bias = ctx.saved_tensors
        if torch.is_grad_enabled():
            form = partial(plain, starts=ctx.starts, activation=ctx.activation)
            return None, None, *again(lambda *x: (form(*x),), ctx.saved_tensors, grads)
        channels, width = weight.shape
        pieces = -(-x.shape[1] // TOKENS)
        sums = x.new_empty(len(x), pieces, width + 1, channels)
        made = {"dx": torch.empty_like(x), "d_tail": torch.empty_like(tail), "d_weight": sums}
        given = {"x": x, "tail": tail, "weight": weight, "bias": bias, "starts": ctx.starts}
        _call("backward", ctx.activation, {**given, "dy": dy.contiguous(), **made})
        total = sums.sum((0, 1))
        d_bias = None if bias is None else total[width]
        return None, None, made["dx"], made["d_tail"], total[:width].flip(0).T, d_bias


def convolve(
    x: Float[Tensor, "B T C"],
    tail: Float[Tensor, "B W C"],
    weight: Float[Tensor, "C N"],
    bias: Float[Tensor, " C"] | None = None,
    *,
    starts: Int[Tensor, "B T"] | None = None,
    activation: bool = True,
) -> Float[Tensor, "B T C"]:
    """y[t] = SiLU(bias + sum_lag weight[:, N - 1 - lag] x[t - lag]), N - 1 = W tokens back.

    ``tail`` holds the W inputs before the first token; ``starts`` is the position where each
    token's document starts, and nothing before it is read. Without ``activation`` there is no SiLU.
    Cost: O(T C N) time; only the inputs are kept for the backward pass.

    Raises UserError for wrong shapes, dtypes or devices.
    """
    starts = None if starts is None else starts.long().contiguous()
    given = (x, tail, weight, bias)
    KERNEL.verify({"x": x, "tail": tail, "weight": weight, "bias": bias, "starts": starts})
    ready = (None if tensor is None else tensor.contiguous() for tensor in given)
    return _Convolve.apply(starts, activation, *ready)
