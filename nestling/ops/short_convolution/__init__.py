"""A causal depth-wise convolution along time with SiLU after, compiled for the CPU."""

import ctypes
from pathlib import Path
from typing import Any

import torch
from jaxtyping import Float, Int
from torch import Tensor
from torch.autograd.function import once_differentiable

from nestling.core import native

HERE = Path(__file__).parent
SUFFIX = {torch.float32: "float", torch.float64: "double"}
TOKENS = 64  # of a piece of work, in the kernel
INTEGERS = ("batch", "length", "channels", "width", "pieces", "activation", "threads")
POINTERS = ("x", "tail", "weight", "bias", "starts", "y", "dy")
POINTERS += ("dx", "d_tail", "d_weight")


class _Problem(ctypes.Structure):
    """As in kernel.cpp."""

    _fields_ = [
        *((name, ctypes.c_int64) for name in INTEGERS),
        *((name, ctypes.c_void_p) for name in POINTERS),
    ]


def available(x: Tensor) -> bool:
    """Whether ``convolve`` can compute in x's type and place, now."""
    return native.usable(x) and native.library(HERE, "kernel.cpp") is not None


def _call(direction: str, activation: bool, tensors: dict[str, Tensor | None]) -> None:
    x, weight = tensors["x"], tensors["weight"]
    assert x is not None and weight is not None
    batch, length, channels = x.shape
    problem = _Problem(
        batch=batch,
        length=length,
        channels=channels,
        width=weight.shape[1],
        pieces=-(-length // TOKENS),
        activation=int(activation),
        threads=torch.get_num_threads(),
    )
    for name, tensor in tensors.items():
        if tensor is not None:
            assert tensor.is_contiguous(), name
            setattr(problem, name, tensor.data_ptr())
    found = native.library(HERE, "kernel.cpp")
    getattr(found, f"short_convolution_{direction}_{SUFFIX[x.dtype]}")(ctypes.byref(problem))


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
    @once_differentiable
    def backward(ctx: Any, dy: Tensor):
        x, tail, weight, bias = ctx.saved_tensors
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

    ``tail`` stands before the first token; ``starts`` says where each token's document starts, and
    nothing before that is seen. Without ``activation`` there is no SiLU. Cost: O(T C N) time; the
    backward pass keeps nothing but the inputs.
    """
    given = (x, tail, weight, bias)
    ready = (None if tensor is None else tensor.contiguous() for tensor in given)
    starts = None if starts is None else starts.contiguous()
    return _Convolve.apply(starts, activation, *ready)
